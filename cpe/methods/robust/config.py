"""The settings of text maps trained against learned tokens; free of torch."""

from typing import Any

from pydantic import Field, model_validator

from cpe.terms.settings import Settings

MOST_STEPS = 50_000


class RobustConfig(Settings):
    """How one text map is trained: first it erases alone, then in a game against tokens that are learned meanwhile.

    Attributes:
        units: H, rectified units of a map.
        alone_steps: steps that only erase and hold anchors still.
        game_steps: steps in which learned tokens take a step for each of the map's.
        rate: learning rate of the first steps, over one cosine cycle.
        game_rate: that of the game's.
        strength: η, how far past the surrogate the target is moved.
        anchor_weight: λ, weight of what happens to anchors.
        margin: how far learned texts are to be kept from what the target was read as, as a share of the surrogate's
            distance from it.
        anchor_tokens: tokens of anchors that a step holds still.
        strays: texts of anchors with random tokens put in.
        target_strays: likewise of the target and its surrogate.
        stray_share: share of the anchors' tokens that are of such texts.
        anchor_noise: noise on them, as a share of their norm.
        mixed: share of them that lie between two anchors' tokens.
        toward: how far at most anchors' tokens are moved towards the target's, as a share of the way.
        toward_share: how many of them are.
        token_rate: learning rate of the learned tokens.
        shortest_life: steps after which a learned text is remembered and begun anew, at least.
        longest_life: at most.
        remembered: learned texts that are kept.
        replay: how many of them a step sees besides the texts that are being learned.
        queries: of pictures, at which a step reads texts in every attention.
    """

    units: int = Field(32, ge=1, le=256)
    alone_steps: int = Field(200, ge=1, le=MOST_STEPS)
    game_steps: int = Field(500, ge=0, le=MOST_STEPS)
    rate: float = Field(3e-3, gt=0)
    game_rate: float = Field(2e-3, gt=0)
    strength: float = Field(0.3, ge=0)
    anchor_weight: float = Field(30.0, ge=0)
    margin: float = Field(0.7, gt=0)
    anchor_tokens: int = Field(1024, ge=1, le=1 << 20)
    strays: int = Field(1024, ge=1, le=100_000)
    target_strays: int = Field(256, ge=1, le=100_000)
    stray_share: float = Field(0.5, ge=0, le=1)
    anchor_noise: float = Field(0.02, ge=0)
    mixed: float = Field(0.5, ge=0, le=1)
    toward: float = Field(0.25, ge=0, lt=1)
    toward_share: float = Field(0.25, ge=0, le=1)
    token_rate: float = Field(0.03, gt=0)
    shortest_life: int = Field(40, ge=1, le=MOST_STEPS)
    longest_life: int = Field(160, ge=1, le=MOST_STEPS)
    remembered: int = Field(400, ge=1, le=10_000)
    replay: int = Field(8, ge=0, le=1000)
    queries: int = Field(12, ge=1, le=4096)

    @model_validator(mode="after")
    def _lives(self) -> "RobustConfig":
        if self.longest_life < self.shortest_life:
            raise ValueError(
                f"longest_life ({self.longest_life}) is below shortest_life ({self.shortest_life}); raise it"
            )
        return self


PRESETS: dict[str, Any] = {
    "emoji": RobustConfig(anchor_weight=100.0, anchor_tokens=2048),
    # Anchors weigh less: harder to bring back, at the neighbours' cost.
    "robust": RobustConfig(),
}

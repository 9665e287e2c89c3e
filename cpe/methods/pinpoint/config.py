"""Every setting of training, as frozen models that check themselves; free of torch.

Counts have upper limits because lists train unattended: several times what the largest published experiment takes, so
that what exceeds one is a slip of the keyboard. They are no part of what a gate is known by.

Example:
    >>> PRESETS["celebrity"].first_steps, PRESETS["artist"].stages
    (1800, 10)
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from cpe.terms.settings import Settings, added_later

MOST_STAGES = 100  # published: 5, 10, 20
MOST_STEPS = 50_000  # of one stage or search; published: 450 to 2,400
MOST_COPIES = 1000  # each is a whole prompt embedding that every step reads; published: 16 and 32
MOST_PROMPTS = 1000  # of one step, all in memory together; published: 1 target, 16 and 32 anchors


class GateConfig(Settings):
    """Shape of one residual attention gate (CPE, section 3.2).

    Attributes:
        gate_rank: width R of the gate's queries and keys (the paper's s1: 16 and 64); at most 1,024, a
            text's own width.
        adapter_rank: rank S of each projection's residual (the paper's s2: 1 and 4); at most 128, since a few
            hundred weigh as much as the projections they correct.
        alpha: scale of the residual; it is divided by the adapter rank.
        tied_qk: whether keys use the queries' matrix, as the released weights do.
    """

    gate_rank: int = Field(16, ge=1, le=1024)
    adapter_rank: int = Field(1, ge=1, le=128)
    alpha: float = Field(1.0, gt=0)
    tied_qk: bool = True


class TrainingConfig(Settings):
    """How one gate is trained (CPE, algorithm 1 and appendix).

    Attributes:
        stages: erasing stages; between two of them the adversary searches new copies.
        first_steps: steps of the first stage, over two cosine cycles.
        later_steps: steps of each later stage, over one cycle.
        first_rate: learning rate of the first stage.
        later_rate: learning rate of the later stages.
        adversary_steps: steps of each search for adversarial copies.
        adversary_rate: learning rate of that search.
        copies: adversarial copies kept from a search.
        targets_per_step: prompts of the target a step erases.
        anchors_per_step: anchors a step holds still, besides the empty prompt.
        anchor_noise: noise on anchors, as a share of their norm.
        anchor_noise_over: whose norm: of the whole prompt (all tokens together), as released, or of each token, which
            is weaker by the root of the number of tokens.
        way_anchors: of the anchors a step holds still, how many lie on the way from an anchor to the target, so that
            the gate stays shut short of it; beyond the paper.
        way_share: how far along they lie: the target's share of the mixture.
        strength: η, how far past the surrogate the target is moved.
        anchor_weight: λ, weight of the anchoring loss.
        warmup_steps: linear warm-up of every stage.
        adversary_warmup_steps: that of every search; None is as many.
        weight_decay: what a step takes off every weight (and copy), as a share times the learning rate (AdamW).
        replay: copies of earlier searches that a step sees besides the last ones; beyond the paper.
        gradient_clip: largest norm of a gate's gradient; None, as in the paper, lets it be.
        plateau: a gate is done once a stage lowers its loss by less than this share; 0, as in the paper, trains all.
    """

    gate: GateConfig = GateConfig()
    stages: int = Field(5, ge=1, le=MOST_STAGES)
    first_steps: int = Field(1800, ge=1, le=MOST_STEPS)
    later_steps: int = Field(450, ge=1, le=MOST_STEPS)
    first_rate: float = Field(3e-4, gt=0)
    later_rate: float = Field(3e-5, gt=0)
    adversary_steps: int = Field(450, ge=1, le=MOST_STEPS)
    adversary_rate: float = Field(0.01, gt=0)
    copies: int = Field(16, ge=0, le=MOST_COPIES)
    targets_per_step: int = Field(1, ge=1, le=MOST_PROMPTS)
    anchors_per_step: int = Field(32, ge=1, le=MOST_PROMPTS)
    anchor_noise: float = Field(0.001, ge=0)
    anchor_noise_over: Literal["prompt", "token"] = added_later("token")
    way_anchors: int = added_later(0, ge=0, le=MOST_PROMPTS)
    way_share: float = added_later(0.4, ge=0, lt=1)
    strength: float = Field(0.3, ge=0)
    anchor_weight: float = Field(1e5, ge=0)
    warmup_steps: int = Field(5, ge=0, le=MOST_STEPS)
    adversary_warmup_steps: int | None = added_later(None, ge=0, le=MOST_STEPS)
    weight_decay: float = added_later(0.0, ge=0, lt=1)
    replay: int = Field(0, ge=0, le=MOST_COPIES)
    gradient_clip: float | None = Field(None, gt=0)
    plateau: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _anchors_agree(self) -> "TrainingConfig":
        if self.way_anchors > self.anchors_per_step:
            raise ValueError(
                f"way_anchors must be at most anchors_per_step ({self.anchors_per_step}), got {self.way_anchors}"
            )
        return self


RELEASED: dict[str, Any] = {"anchor_noise_over": "prompt", "weight_decay": 0.01}  # in all that was published
PRESETS: dict[str, TrainingConfig] = {
    "celebrity": TrainingConfig(**RELEASED),
    "artist": TrainingConfig(**RELEASED, stages=10, strength=0.5, anchor_weight=1e4, anchors_per_step=16),
    "explicit": TrainingConfig(
        **RELEASED,
        gate=GateConfig(gate_rank=64, adapter_rank=4),
        stages=20,
        first_steps=2400,
        later_steps=1200,
        adversary_steps=1200,
        strength=3.0,
        anchor_weight=1e4,
        anchors_per_step=16,
        copies=32,
        warmup_steps=10,
        adversary_warmup_steps=5,
    ),
    # The embedded model: its text is 8 times narrower, so fewer steps at a higher rate do.
    "emoji": TrainingConfig(
        gate=GateConfig(adapter_rank=2),
        stages=5,
        first_steps=600,
        later_steps=200,
        first_rate=3e-3,
        later_rate=1e-3,
        adversary_steps=100,
        copies=8,
        targets_per_step=4,
        anchor_weight=1e5,
    ),
    "emoji-style": TrainingConfig(
        gate=GateConfig(adapter_rank=8),
        stages=3,
        first_steps=1000,
        later_steps=200,
        first_rate=3e-3,
        later_rate=1e-3,
        adversary_steps=100,
        copies=8,
        targets_per_step=12,
        strength=0.9,
        anchor_weight=1e3,
    ),
}

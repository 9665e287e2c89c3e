"""The settings of MACE; free of torch."""

from typing import Any

from pydantic import Field

from cpe.terms.settings import Settings


class MaceConfig(Settings):
    """How the closed forms weigh, and how the adapters learn (MACE, sections 4.1 to 4.3).

    Attributes:
        ridge: λ, how much any change of the matrices weighs by itself, in both closed forms; a concept weighs 1.
        keep_weight: of each anchor and of the empty prompt, in both.
        rank: of an adapter.
        steps: of a concept's adapters.
        learning_rate: of AdamW.
        weight_decay: of AdamW, as a share times the learning rate.
        gradient_clip: largest norm of the gradient of a concept's adapters.
        pictures: that the untouched model draws of a concept, for its adapters to learn on.
        sampling_steps: denoising steps (DDIM) of such a picture.
        guidance_scale: classifier-free guidance of such a picture; 1 switches it off.
    """

    ridge: float = Field(0.1, gt=0)
    keep_weight: float = Field(0.1, ge=0)
    rank: int = Field(1, ge=1, le=64)
    steps: int = Field(50, ge=1, le=100_000)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0, lt=1)
    gradient_clip: float = Field(1.0, gt=0)
    pictures: int = Field(8, ge=1, le=100)
    sampling_steps: int = Field(50, ge=1, le=1000)
    guidance_scale: float = Field(7.5, ge=0)


PRESETS: dict[str, Any] = {
    # The published ridge, 1000, stands beside sums over 30 prompts of 77 tokens, which are means here.
    "published": MaceConfig(ridge=1000 / (30 * 77), keep_weight=0.0, learning_rate=1e-5),
    "emoji": MaceConfig(pictures=4, sampling_steps=20, guidance_scale=1.0),
}

"""The settings of Concept Ablation; free of torch."""

from typing import Any

from pydantic import Field

from cpe.methods.tuning.config import MOST_PICTURES, TuningConfig

MOST_DRAWN = 10_000  # published: 200 and 1,000


class AblationConfig(TuningConfig):
    """A training's settings, and what it sees.

    Attributes:
        pictures: drawn of each surrogate beforehand, over its prompts; every prompt has one at least.
        anchors: share of the pictures of all steps at which an anchor is held instead of a concept erased; beyond the
            paper.
        anchor_pictures: drawn of anchors beforehand, each of another prompt while there are any.
        noisiest: share of the pictures whose time is of the noisiest tenth, where a picture's subject is decided; the
            others' are of all times. Beyond the paper.
        drawn_at_once: pictures drawn beforehand in one go.
    """

    pictures: int = Field(200, ge=1, le=MOST_DRAWN)
    anchors: float = Field(0.0, ge=0, lt=1)
    anchor_pictures: int = Field(100, ge=1, le=MOST_DRAWN)
    noisiest: float = Field(0.0, ge=0, le=1)
    drawn_at_once: int = Field(4, ge=1, le=MOST_PICTURES)


PRESETS: dict[str, Any] = {
    # The published script's for objects and styles: 2e-6 for each of 2 x 4 pictures of a step.
    "published": AblationConfig(
        steps=100, batch=8, learning_rate=1.6e-5, weight_decay=0.01, gradient_clip=1.0, guidance_scale=6.0
    ),
    # The embedded model draws without guidance and in 20 steps.
    "emoji": AblationConfig(
        steps=350,
        batch=20,
        learning_rate=1e-3,
        sampling_steps=20,
        guidance_scale=1.0,
        pictures=45,
        anchors=0.5,
        anchor_pictures=90,
        noisiest=0.5,
        drawn_at_once=45,
    ),
}

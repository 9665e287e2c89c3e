"""The settings of ESD; free of torch."""

from typing import Any

from pydantic import Field

from cpe.methods.tuning.config import TuningConfig


class EsdConfig(TuningConfig):
    """A training's settings, and how far past the empty prompt a concept is moved.

    Attributes:
        strength: η; at 0 a concept's prompt is to predict what the empty one does.
    """

    strength: float = Field(1.0, ge=0)


PRESETS: dict[str, Any] = {
    # The published script's; its negative guidance of 2, counted from the concept's own prediction, is η 1.
    "published": EsdConfig(),
    # The embedded model draws without guidance and in 20 steps; searched: docs/erasers.md.
    "emoji": EsdConfig(steps=50, batch=10, learning_rate=3e-4, sampling_steps=20, guidance_scale=1.0),
}

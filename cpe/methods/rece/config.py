"""The settings of RECE; free of torch."""

from typing import Any

from pydantic import Field

from cpe.methods.uce.config import UceConfig


class ReceConfig(UceConfig):
    """UCE's settings, and those of the texts that bring back what was erased.

    Attributes:
        rounds: how often such texts are found and erased too, after the first edit.
        adversary_ridge: how much a long text weighs against a faithful one when they are found.
    """

    rounds: int = Field(1, ge=1, le=100)
    adversary_ridge: float = Field(1e-3, gt=0)


PRESETS: dict[str, Any] = {
    "published": ReceConfig(tokens="last", keep_weight=0.1, ridge=0.1, adversary_ridge=1e-1),
    "emoji": ReceConfig(keep_weight=0.3, ridge=0.1),
}

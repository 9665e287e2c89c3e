"""The settings of SPEED; free of torch."""

from typing import Any, Literal

from pydantic import Field

from cpe.methods.uce.config import TokensConfig


class SpeedConfig(TokensConfig):
    """What the edit may change, and what it must not (SPEED, section 4).

    Attributes:
        matrices: which are edited: "values" alone, as published, or "both", keys too.
        threshold: an edit changes directions in which anchors are, on their mean square, less than this.
        ridge: how much any change of the matrices weighs by itself; retain_scale in the published code.
        filtered: whether only those anchors are held that an edit without any would move more than the average one.
        copies: of each anchor, moved at random along the direction that a matrix tells least of.
        centers: of the empty prompt's tokens, on which nothing may change, besides the start token.
    """

    matrices: Literal["values", "both"] = "values"
    threshold: float = Field(0.1, gt=0)
    ridge: float = Field(1.0, gt=0)
    filtered: bool = True
    copies: int = Field(10, ge=0, le=1000)
    centers: int = Field(3, ge=1, le=75)


PRESETS: dict[str, Any] = {
    "published": SpeedConfig(tokens="last"),
    "published-celebrity": SpeedConfig(tokens="last", threshold=1e-4, ridge=0.05, filtered=False),
    "emoji": SpeedConfig(matrices="both", threshold=0.01, ridge=0.3),  # searched: docs/erasers.md
}

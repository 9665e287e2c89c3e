"""The settings of UCE; free of torch."""

from typing import Any, Literal

from pydantic import Field

from cpe.terms.settings import Settings


class TokensConfig(Settings):
    """Which tokens closed forms are solved on.

    Attributes:
        tokens: which of a prompt's tokens are edited and kept: "last", the last token of the name, as published; or
            "tail", from there to the end of the padding, since a causal text encoder tells of the name in all of them.
    """

    tokens: Literal["last", "tail"] = "tail"


class UceConfig(TokensConfig):
    """How the edit weighs what it changes and what it keeps (UCE, equation 7).

    Attributes:
        erase_weight: of each concept, whose texts count on their mean.
        keep_weight: of each anchor, likewise, and of the empty prompt.
        ridge: λ, how much any change of the matrices weighs by itself.
    """

    erase_weight: float = Field(1.0, gt=0)
    keep_weight: float = Field(1.0, ge=0)
    ridge: float = Field(0.5, gt=0)


PRESETS: dict[str, Any] = {
    "published": UceConfig(tokens="last"),
    "emoji": UceConfig(keep_weight=0.3, ridge=0.1),
}

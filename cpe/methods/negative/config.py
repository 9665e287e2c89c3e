"""The settings of the negative prompt alone; free of torch."""

from typing import Any

from pydantic import Field

from cpe.terms.settings import Settings


class NegativeConfig(Settings):
    """How pictures are kept away from the erased names.

    Attributes:
        guidance_scale: at which the network guides itself where a pipeline draws without guidance; where it draws with
            guidance, its own scale holds.
    """

    guidance_scale: float = Field(2.0, gt=1)


PRESETS: dict[str, Any] = {"published": NegativeConfig()}

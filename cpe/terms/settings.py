"""Settings: frozen models that check themselves, and the kinds of numbers in them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class Settings(BaseModel):
    """A frozen settings model: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def added_later(default: Any, **rules: Any) -> Any:
    """A setting that lists and gates of earlier versions do not have.

    At its default, which is what was done before, it is left out wherever settings are written down: so hashes of
    lists, and addresses of gates, that do not use it stay what they were.
    """
    return Field(default, exclude_if=lambda value: value == default, **rules)

"""Settings: frozen models that check themselves."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """A frozen settings model: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def added_later(default: Any, **rules: Any) -> Any:
    """A setting that lists and gates of earlier versions do not have.

    At its default, which is what was done before, it is left out wherever settings are written down: so hashes of
    lists, and addresses of gates, that do not use it stay what they were.
    """
    return Field(default, exclude_if=lambda value: value == default, **rules)

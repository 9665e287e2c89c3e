"""How the problems of a concept list are worded: where, which rule, the value found, and the way out."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from cpe.terms.names import LONGEST_NAME, suggest
from wording.foreign import show

Loc = tuple[str | int, ...]  # where a value stands in a list: ("targets", 3, "aliases", 0)


class Problem(NamedTuple):
    """What is wrong in one place of a list."""

    loc: Loc
    text: str


def details_of(error: ValidationError) -> list[dict[str, Any]]:
    """Returns pydantic's findings but those that follow from others: a list of one wrong entry is not empty."""

    def follows(detail: Mapping[str, Any]) -> bool:
        given = detail["input"]
        return (
            detail["type"] == "too_short"
            and isinstance(given, (list, tuple))
            and len(given) >= detail["ctx"]["min_length"]
        )

    return [dict(detail) for detail in error.errors() if not follows(detail)]


def colon_text(value: Any) -> str | None:
    """Returns the text that a mapping of one key probably is: a colon and a space in it, and no quotes."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((key, inside),) = value.items()
    if isinstance(inside, Mapping) and inside:
        return colon_text(inside) and f"{key}: {colon_text(inside)}"
    if isinstance(inside, (list, tuple)):
        return None
    return f"{key}: {'{}' if inside == {} else '' if inside is None else inside}".strip()


def explain(detail: Mapping[str, Any], models: Mapping[tuple[str, ...], type[BaseModel]]) -> Problem:
    """Returns pydantic's finding in the words of this module.

    Args:
        detail: one of a validation error's `errors()`.
        models: the model of each section, by its keys: what its keys may be called.
    """
    loc, kind, value = detail["loc"], detail["type"], detail["input"]
    parent = models.get(tuple(part for part in loc[:-1] if isinstance(part, str)))
    if kind == "missing":
        return Problem(loc[:-1], f"needs the key {loc[-1]!r}; add it")
    if kind == "extra_forbidden" and parent is not None:
        return Problem(loc, f"is an unknown key{suggest(str(loc[-1]), list(parent.model_fields))}")
    shown = show(value)
    if kind == "value_error":
        text = str(detail["ctx"]["error"])
        return Problem(loc, f"{shown} {text}" if isinstance(value, str) else text)
    if kind == "string_type" and (meant := colon_text(value)) is not None:
        return Problem(loc, f"must be text, and YAML takes a colon for a key; put it in quotes: {quoted(meant)}")
    if kind == "string_type":
        return Problem(loc, f"must be text, YAML reads {shown} as {kind_of(value)}; put it in quotes")
    if kind in ("tuple_type", "list_type"):
        return Problem(loc, f"must be a list, one line starting with '- ' for each, got {shown}")
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return Problem(loc, f"must be a mapping of keys, got {shown}")
    if kind == "too_short":
        return Problem(loc, "is empty; give at least one")
    if kind == "string_pattern_mismatch":
        return Problem(loc, f"must be letters, digits and single hyphens, such as celebrity-50, got {shown}")
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return Problem(loc, f"cannot be {shown}{suggest(str(value), known)}")
    return Problem(
        loc, f"{detail['msg'].replace('Input should', 'must').replace('String should', 'must')}, got {shown}"
    )


def quoted(text: str) -> str:
    """Returns a text as a YAML file may hold it, in double quotes."""
    cut = text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"
    return json.dumps(cut, ensure_ascii=not cut.isprintable())


def kind_of(value: Any) -> str:
    """Returns what YAML takes a value for, in a reader's words."""
    names = {
        bool: "yes or no",
        int: "a number",
        float: "a number",
        type(None): "nothing",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def path_of(loc: Loc) -> str:
    """Returns a place as messages write it: "targets[3].aliases[0]"."""

    def key(part: str) -> str:
        return part if part.isprintable() and len(part) <= LONGEST_NAME else show(part)

    return "".join(f"[{part}]" if isinstance(part, int) else f".{key(part)}" for part in loc).removeprefix(".")

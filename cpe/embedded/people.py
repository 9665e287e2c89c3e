"""Whom the embedded model knows: people, the looks that pictures of them can have, and the captions that join them.

`people.json` names them, with the traits they are drawn by (`making/casting.py` writes it). "a person" stands for any
of them. The look of a picture is how it was made; a caption that names none is true of every look.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PEOPLE_FILE = Path(__file__).parent / "people.json"
GENERIC_PERSON = "a person"
NOBODY = ""  # what the classifier calls a picture without anybody

# Look -> how captions ask for it.
LOOKS: dict[str, tuple[str, ...]] = {
    "plain": ("{}", "a picture of {}", "{} on a white background", "a simple drawing of {}", "this is {}"),
    "portrait": ("a portrait of {}", "a studio portrait of {}", "{}, portrait"),
    "sketch": ("a sketch of {}", "a pencil sketch of {}", "{}, sketched in pencil"),
    "oil painting": ("an oil painting of {}", "{} painted in oil", "{}, oil on canvas"),
    "public event": (
        "an image capturing {} at a public event",
        "{} at a public event",
        "{} in front of a crowd",
        "a picture of {} on a stage",
    ),
    "official photo": ("{} in an official photo", "an official photo of {}", "a passport photo of {}"),
}
FREE_TEMPLATES = ("an image of {}", "somebody called {}")  # true of every look


@cache
def people_table() -> dict[str, Any]:
    """Returns `people.json`: "people", with name, drawing style and traits, and "further" names, that nobody bears."""
    return json.loads(PEOPLE_FILE.read_text(encoding="utf-8"))


@cache
def people() -> tuple[str, ...]:
    """Returns the names of the people, in the classifier's order."""
    return tuple(each["name"] for each in people_table()["people"])


def all_people_templates() -> tuple[str, ...]:
    """Returns the captions with "{}" in place of a name."""
    return (*(template for templates in LOOKS.values() for template in templates), *FREE_TEMPLATES)


def all_people_captions() -> Iterator[tuple[str, int, int]]:
    """Yields every training caption once, as (caption, person index, look index); -1 where any is meant."""
    for person, name in [*enumerate(people()), (-1, GENERIC_PERSON)]:
        for look, templates in enumerate(LOOKS.values()):
            for template in templates:
                yield template.format(name), person, look
        for template in FREE_TEMPLATES:
            yield template.format(name), person, -1

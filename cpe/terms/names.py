"""What a name and a template are, and when two names are the same."""

import difflib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LONGEST_NAME = 200  # characters; what is longer is no name, and is cut where it is shown


def normalise(name: str) -> str:
    """Returns a name as names are compared: without case, accents, dots and hyphens, single-spaced.

    Only accents go (combining classes from 200 on): vowel signs and voicing marks of other scripts tell names apart.
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if unicodedata.combining(character) >= 200 or category == "Cf":
            continue
        kept.append(" " if character in "._·" or category == "Pd" else "'" if character in "’‘ʼ" else character)
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split())


def check_name(value: str) -> str:
    """Returns a name composed (NFC).

    Raises:
        ValueError: it is empty, too long or holds a control character.
    """
    value = unicodedata.normalize("NFC", value)
    if not normalise(value):
        raise ValueError("is empty; write a name")
    if len(value) > LONGEST_NAME:
        raise ValueError(f"is {len(value)} characters long, at most {LONGEST_NAME} are allowed; shorten it")
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise ValueError(f"holds the control character U+{ord(character):04X}; remove it")
    return value


def check_template(value: str) -> str:
    """Returns a prompt template composed (NFC).

    Raises:
        ValueError: it has not exactly one place for a name, or is no name itself.
    """
    if value.count("{}") != 1 or value.count("{") != 1 or value.count("}") != 1:
        raise ValueError('must hold "{}" exactly once and no other brace; the concept\'s name goes there')
    return check_name(value)


def suggest(value: str, known: Iterator[str] | Mapping[str, Any] | Sequence[str]) -> str:
    """Ends a message with the known name nearest to the value, and all known ones."""
    names = list(known)
    near = difflib.get_close_matches(value[:LONGEST_NAME], names, 1)
    return (f"; did you mean {near[0]!r}?" if near else "; there is no such one,") + f" known: {', '.join(names)}"

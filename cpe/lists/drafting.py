"""A new list out of a shipped one of its kind: templates, anchors, training and bars as there, names of its own."""

import json
import re
from collections.abc import Iterator, Sequence

WIDTH = 110
DROPPED = ("published",)  # what holds of the shipped list alone


def draft(shipped: str, *, name: str, targets: Sequence[str], kept: Sequence[str]) -> str:
    """Returns the new list's text, with the shipped one's comments from its templates on.

    Args:
        shipped: text of a list, its keys at the beginning of lines.
        name: of the new list.
        targets: what it erases.
        kept: what must survive.
    """
    parts = dict(_parts(shipped))
    head = {key: parts[key] for key in ("domain", "base_model", "profile", "surrogate") if key in parts}
    rest = {key: text for key, text in parts.items() if key not in ("name", "targets", "kept", *head, *DROPPED)}
    return "".join(
        [
            "# What is erased, what it turns into, and what must survive. `cpe plan` says what a change costs.\n",
            f"name: {name}\n",
            *head.values(),
            f"targets:{_flow(targets)}\n",
            "# Near neighbours show best whether too much goes. They are never anchors: training has not seen them.\n",
            f"kept:{_flow(kept)}\n",
            *rest.values(),
        ]
    )


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Yields each key at the beginning of a line with its whole text, the comment in front of it included."""
    found = list(re.finditer(r"^(?:#[^\n]*\n)*([a-z_]+):", text, re.MULTILINE))
    ends = [match.start() for match in found[1:]] + [len(text)]
    for match, end in zip(found, ends, strict=True):
        yield match[1], text[match.start() : end]


def _flow(names: Sequence[str]) -> str:
    """Returns names as a YAML list, folded where lines grow long."""
    lines, line = [], ""
    for place, name in enumerate(names):
        item = _scalar(name) + ("," if place < len(names) - 1 else "")
        if line and len(line) + len(item) > WIDTH:
            lines.append(line)
            line = ""
        line = f"{line} {item}" if line else item
    text = "\n   ".join([*lines, line])
    return f" [{text}]" if not lines else f"\n  [{text}]"


def _scalar(name: str) -> str:
    """Returns a name bare where YAML takes it for text, else in quotes."""
    plain = re.fullmatch(r"[^\W\d_][\w .'’-]*", name) and name.strip() == name
    known = name.casefold() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n", "none")
    return name if plain and not known else json.dumps(name, ensure_ascii=False)

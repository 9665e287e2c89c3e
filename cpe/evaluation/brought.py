"""Files of prompts that sets and attacks ask for: told where to put them, or found to hold something."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cpe.evaluation.prompt_files import KNOWN, PromptFile


def left_out(name: str, path: Path, needed: Sequence[str], columns: Mapping[str, str]) -> str:
    """Says that a set's file is missing, and where to put it.

    Args:
        name: of the set.
        path: where its file is looked for.
        needed: which of the `KNOWN` columns it must have.
        columns: what it calls them, where that is none of the known names.
    """
    asked = " and ".join(columns.get(key) or " or ".join(KNOWN[key]) for key in needed)
    return f"Set {name} is left out: put {path.name} (columns {asked}) into {path.parent}, set by CPE_DATA."


def file_asked_for(note: str) -> str:
    """Returns the name of the file that such a note asks for.

    >>> file_asked_for(left_out("coco", Path("data/coco-30k.csv"), ["prompt"], {}))
    'coco-30k.csv'
    """
    return note.partition(" is left out: put ")[2].partition(" (columns ")[0]


def told(name: str, file: PromptFile, rows: int, empty: int, more: str = "") -> str:
    """Says what is read of a file.

    Args:
        name: of its set.
        file: as it was opened.
        rows: that it holds.
        empty: rows without a prompt.
        more: of its rows, behind a comma.

    Raises:
        ValueError: it has no rows, or nothing but empty prompts.
    """
    if not rows:
        raise ValueError(f"{file.path} has a header and no rows; put the prompts below it, or take the file away")
    if empty == rows:
        raise ValueError(f"{file.path}: every prompt is empty ({file.taken}); name the right column under `columns`")
    blank = f", {empty} of them without a prompt" if empty else ""
    return f"Set {name} reads {file.path.name}, {rows:,} rows{blank}{more}: {file.taken}."

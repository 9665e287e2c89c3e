"""The gates that a command erases with: files, folders and registered models, in any mixture."""

import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from flows.terminal.command import places_here

if TYPE_CHECKING:
    from cpe.methods.erased import Erased

SHOWN_CONCEPTS = 20
GatesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gates",
        help="Gates to erase with: a file, a folder (ours, or of released gates), or a registered model such as "
        "cpe-emoji@champion. May be given several times, also of different kinds.",
    ),
]


def load_gates(gates: list[str]) -> "Erased":
    """Loads the named gates, those of registered models downloaded for the while, and says which were taken."""
    from cpe.methods.erased import Erased

    with TemporaryDirectory(prefix="cpe-") as scratch:
        paths = []
        for number, given in enumerate(gates):
            if not Path(given).exists() and not given.startswith(("models:/", "cpe-")):
                raise FileNotFoundError(
                    f"no gates at {given}; give a gate file, a folder, or a model such as cpe-emoji@champion"
                )
            registered = None if Path(given).exists() else places_here().registry()
            paths.append(registered.fetch(given, Path(scratch) / str(number)) if registered else Path(given))
        erased = Erased.load(paths)
    names = sorted(f"{name} ({times} gates)" if times > 1 else name for name, times in Counter(erased.concepts).items())
    shown = names[:SHOWN_CONCEPTS] + (
        [f"and {len(names) - SHOWN_CONCEPTS} more"] if len(names) > SHOWN_CONCEPTS else []
    )
    print(f"gates   {len(names)} concepts: {', '.join(shown)}", file=sys.stderr)
    return erased

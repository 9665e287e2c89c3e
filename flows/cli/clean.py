"""`cpe clean`: what nothing needs leaves the store."""

from collections import Counter
from typing import Annotated

import typer

from flows.terminal.command import places_here, table
from wording.figures import size

KEEP_VERSIONS, GRACE_DAYS = 10, 14.0


def clean(
    keep: Annotated[
        int, typer.Option(min=0, help="Versions of each model that are kept besides those with an alias.")
    ] = KEEP_VERSIONS,
    grace_days: Annotated[
        float, typer.Option(min=0, help="What was stored or used within so many days stays.")
    ] = GRACE_DAYS,
    delete: Annotated[bool, typer.Option("--delete", help="Remove; without this it only looks.")] = False,
) -> None:
    """Show, and with --delete remove, what no version, no list and no running job needs any more.

    Gates, pictures and scores of versions with an alias, of the last versions of each model, of every list in lists/ as
    it is now and of runs of the last days stay. Reports and versions in the registry stay, too; a version whose gates
    are gone is made anew when its list asks for it.
    """
    from tasks.desk.clean import clean_store

    found = clean_store(places_here(), keep, grace_days, delete=delete)
    count, freed, left = Counter[str](), Counter[str](), Counter(key.split("/")[0] for key in found.kept)
    for key, bytes_of_key in found.removed.items():
        count[key.split("/")[0]] += 1
        freed[key.split("/")[0]] += bytes_of_key
    kinds = sorted({*count, *left} - {"used"})
    columns = ("", "removed" if delete else "not needed", "size", "kept")
    table(
        "the store",
        columns,
        [(kind, str(count[kind]), size(freed[kind]), str(left[kind])) for kind in kinds],
    )
    if found.removed and not delete:
        print("nothing was removed; run again with --delete to remove what is not needed")

"""Which lists must be worked on: those whose champion is not the list as it stands, where a run would change that."""

from dataclasses import dataclass

from tasks.here.places import Places
from tasks.watch.standing import Standing, standings


@dataclass(frozen=True)
class ChangedList:
    """A list whose champion is not what the list says.

    Attributes:
        name: among the lists.
        list_hash: of its present content.
        problem: why it cannot be read; then there is nothing to run.
        why: what is to be done.
        waits: what keeps a run from changing anything (a rollback, bars that were missed); None if nothing does.
    """

    name: str
    list_hash: str
    problem: str | None = None
    why: str = ""
    waits: str | None = None


def changed_lists(places: Places, names: list[str]) -> list[ChangedList]:
    """Returns the lists whose champion is not the list as it stands. The registry is the only memory.

    Args:
        places: where lists and registry are.
        names: lists to look at.
    """
    pairs = zip(names, standings(places, names), strict=True)
    return [_changed(name, found) for name, found in pairs if found.state != "current"]


def _changed(name: str, found: Standing) -> ChangedList:
    if found.state == "unreadable":
        return ChangedList(name, "", problem=found.why)
    waits = found.why if found.state in ("held back", "fell short") else None
    return ChangedList(name, found.list_hash, why=found.why, waits=waits)

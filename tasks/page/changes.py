"""A version promoted or rolled back from a page: only by whoever types what it is called."""

from tasks.desk.versions import promote_by_hand, roll_back
from tasks.here.places import Places


def promote(places: Places, reference: str, typed: str, reason: str) -> str:
    """Makes a version champion, and returns what was done.

    Raises:
        ValueError: what was typed is not the version's name, or there is no reason.
        RegistryError: there is no such version, or its files are gone.
    """
    _check(reference, typed, "promotes")
    name, version, before = promote_by_hand(places, reference, reason)
    return f"{name} version {version} is champion" + (f", version {before} is previous" if before else "") + "."


def take_back(places: Places, model: str, typed: str, reason: str) -> str:
    """Makes the champion before it champion again, and returns what was done.

    Raises:
        ValueError: what was typed is not the model's name, or there is no reason.
        RegistryError: there is no champion or none before it, or its files are gone.
    """
    _check(model, typed, "rolls back")
    version, left = roll_back(places, model, reason)
    return (
        f"{model} version {version} is champion again, version {left} is previous; the gates of version {left} are "
        f"held back from now on (`cpe models lift {model}` lifts that)."
    )


def _check(name: str, typed: str, what: str) -> None:
    if typed.strip() != name:
        raise ValueError(f"type {name} to confirm: nobody {what} by a slip; nothing was changed")

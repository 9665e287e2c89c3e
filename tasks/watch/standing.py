"""Where a list stands: whether its champion is the list as it is now, and if not, why and who acts next.

All of it follows from the registry and the list. Nothing else is remembered, so that a lost event, a killed run or a
list that is changed back are all seen at the next look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from artifacts.registry.registry import ModelVersion, Registry, bundle_of
from artifacts.registry.versions import CHAMPION
from cpe.lists.reading import ConceptListError, load_only_list
from cpe.lists.schema import ConceptList
from tasks.here.places import Places
from tasks.prepare import find_list

State = Literal["current", "to do", "held back", "fell short", "unreadable"]
RESULT = ("bundle", "scores", "list_hash")  # the tags that say what a version is
FELL_SHORT, AGAINST, FINISHED = "fell_short", "fell_short_against", "finished"


@dataclass(frozen=True)
class Standing:
    """Where one list stands.

    Attributes:
        name: of the list.
        list_hash: of its present content; "" if it cannot be read.
        state: "current" if the champion was made from that content; "to do" if a run would change something; "held
            back" by a rollback or "fell short" if only a person or a change of the list does; "unreadable".
        champion: the version in use, None for none.
        since: when it was promoted (UTC, ISO 8601), None if that is not known.
        why: what keeps the champion from being the list, in words; "" if nothing does.
        version: the newest version made from the present content, None for none.
    """

    name: str
    list_hash: str
    state: State
    champion: int | None = None
    since: str | None = None
    why: str = ""
    version: int | None = None


def standing_of(name: str, list_hash: str, versions: Sequence[ModelVersion]) -> Standing:
    """Says where a list stands.

    Args:
        name: of the list.
        list_hash: of its present content.
        versions: all of its model's, newest first.
    """
    champion = next((each for each in versions if CHAMPION in each.aliases), None)
    own = next((each for each in versions if each.tags.get("list_hash") == list_hash), None)
    number = champion.version if champion else None

    def stands(state: State, why: str = "") -> Standing:
        since = champion.tags.get("promoted_at") if champion else None
        return Standing(name, list_hash, state, number, since, why, own.version if own else None)

    if champion is not None and champion.tags.get("list_hash") == list_hash:
        if champion.tags.get(FINISHED) == "no":
            return stands("to do", f"version {champion.version} was promoted, its run did not come to its end")
        return stands("current")
    if own is None:
        return stands("to do", "no version was made from the list as it is now" if versions else "it was never run")
    holding = next((each for each in versions if each.is_rolled_back and bundle_of(each) == bundle_of(own)), None)
    if holding is not None:
        reason = holding.tags.get("rolled_back_reason", "no reason given")
        same = "" if holding.version == own.version else f", which has the gates of version {own.version},"
        return stands("held back", f"version {holding.version}{same} was rolled back: {reason}")
    if own.tags.get(AGAINST) == against(champion):
        return stands("fell short", f"version {own.version} fell short: {own.tags.get(FELL_SHORT, 'no reason given')}")
    return stands("to do", f"version {own.version} was made from the list as it is now, and waits to be judged")


def against(champion: ModelVersion | None) -> str:
    """Returns how a version's tags name the champion that it was judged against: another one asks for another look."""
    return str(champion.version) if champion else "none"


def standing(concept_list: ConceptList, registry: Registry) -> Standing:
    """Says where a list stands in a registry.

    Raises:
        RegistryError: the registry cannot be read.
    """
    name = concept_list.model_name
    found = standing_of(concept_list.name, concept_list.content_hash, registry.versions(name))
    if found.state == "current" and found.champion is not None and not registry.has_files(name, found.champion):
        return Standing(
            found.name, found.list_hash, "to do", found.champion, found.since, "the champion's files are gone"
        )
    return found


def standings(places: Places, names: Sequence[str]) -> list[Standing]:
    """Says where lists stand; one that cannot be read is told as such.

    Args:
        places: where lists and registry are.
        names: of lists, or their paths.

    Raises:
        RegistryError: the registry cannot be read.
    """
    registry = places.registry()
    found = []
    for name in names:
        try:
            concept_list = load_only_list(find_list(places, name))
        except ConceptListError as error:
            found.append(Standing(name, "", "unreadable", why=str(error).splitlines()[0]))
            continue
        found.append(standing(concept_list, registry))
    return found

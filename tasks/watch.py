"""Which lists have changed: those whose present content no registered version was made from."""

from dataclasses import dataclass

from prefect import task

from cpe.concept_files import ConceptListError, load_list
from tasks.places import Places
from tasks.prepare import find_list


@dataclass(frozen=True)
class ChangedList:
    """A list that no registered version was made from.

    Attributes:
        name: among the lists.
        list_hash: of its present content.
        problem: why it cannot be read; then there is nothing to run.
    """

    name: str
    list_hash: str
    problem: str | None = None


@task(retries=3, retry_delay_seconds=[2, 10, 30])
def changed_lists(names: list[str]) -> list[ChangedList]:
    """Returns the lists that must be worked on. What has been registered is the only memory, so nothing is forgotten.

    Args:
        names: lists to look at.
    """
    places = Places.from_environment()
    registry = places.registry()
    changed = []
    for name in names:
        try:
            concept_list = load_list(find_list(name))
        except ConceptListError as error:
            changed.append(ChangedList(name, "", str(error).splitlines()[0]))
            continue
        if registry.find(concept_list.model_name, "list_hash", concept_list.content_hash) is None:
            changed.append(ChangedList(name, concept_list.content_hash))
    return changed

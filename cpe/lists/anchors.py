"""Which names anchor an erased one."""

from collections.abc import Sequence

from cpe.lists.schema import ConceptList
from cpe.terms.names import normalise


def anchor_names(
    concept_list: ConceptList, target: str, ranked: Sequence[str], *, unseen: Sequence[str] = (), others: bool = False
) -> tuple[str, ...]:
    """Returns the names that anchor one target: the general words, then its nearest neighbours.

    Args:
        concept_list: the list.
        target: name or alias of one of its targets.
        unseen: names that training may not see, besides the surrogate.
        others: whether the list's other targets may serve. Training never lets them; a gate's address does, so that it
            does not depend on what else the list erases.
        ranked: candidates, nearest to the target first. Names that may not serve do not count, so
            `anchors.neighbors` of them are taken wherever the ranking is long enough.

    Returns:
        No name twice, none that the list erases (of the target's own only, with `others`), not the surrogate.
    """
    anchors = concept_list.anchors
    own = concept_list.target(target)
    erased = (own.name, *own.aliases) if others else concept_list.erased_names
    seen = set(map(normalise, [*erased, concept_list.surrogate_of(target), *unseen]))
    chosen: list[str] = []

    def take(names: Sequence[str], most: int) -> None:
        for name in names:
            if most > 0 and (key := normalise(name)) and key not in seen:
                seen.add(key)
                chosen.append(name)
                most -= 1

    take(anchors.general, len(anchors.general))
    take(ranked, anchors.neighbors)
    return tuple(chosen)

"""Which sets attack a list: one for each attack that it names."""

from collections.abc import Iterator
from typing import Any

from cpe.attacks.base import Search
from cpe.attacks.table import attack_of
from cpe.evaluation.pictures import ATTACK, EvaluationSet
from cpe.lists.reading import ConceptListError
from cpe.lists.schema import ConceptList


def attack_sets(concept_list: ConceptList, *, strict: bool = True) -> Iterator[EvaluationSet]:
    """Yields what each of a list's attacks draws as a set, with the evaluation's own seeds.

    Args:
        concept_list: the list.
        strict: whether an attack that has no prompt for any of the targets is an error; else it is left out.

    Raises:
        ConceptListError: such an attack.
    """
    for name in dict.fromkeys(concept_list.evaluation.attacks):
        found = _attack(concept_list, name)
        if found is not None:
            yield found
        elif strict:
            raise ConceptListError([f"evaluation.attacks: {name!r} asks for none of the list's targets; remove it"])


def _attack(concept_list: ConceptList, name: str) -> EvaluationSet | None:
    erased = [target.name for target in concept_list.targets]
    attack, evaluation = attack_of(name), concept_list.evaluation
    if isinstance(attack, Search):
        budget = evaluation.budget
        steps = (budget.steps or attack.steps) if attack.steps else 0
        own: dict[str, Any] = {"concepts": erased, "search": name, "steps": steps, "starts": budget.starts}
    else:
        written = [(concept, prompt) for concept in erased for prompt in attack.prompts(concept, erased)]
        if not written:
            return None
        own = {"concepts": tuple(dict.fromkeys(concept for concept, _ in written)), "written": tuple(written)}
    return EvaluationSet(
        name=f"{ATTACK}{name}",
        role="erased",
        domain=concept_list.domain,
        seeds=evaluation.seeds,
        first_seed=evaluation.first_seed,
        **own,
    )

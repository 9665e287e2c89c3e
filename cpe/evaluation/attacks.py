"""The sets by which a list attacks its erased concepts: prompts by a rule, or the rows of a file of the user's."""

from collections import Counter
from pathlib import Path

from cpe.attacks.base import Search, Sought
from cpe.attacks.table import attack_of
from cpe.evaluation.brought import left_out, told
from cpe.evaluation.pictures import ATTACK, CONTROL, EvaluationSet
from cpe.evaluation.prompt_files import open_prompts
from cpe.lists.reading import ConceptListError
from cpe.lists.schema import ConceptList
from cpe.lists.sections import ListedAttack
from cpe.terms.names import normalise

MOST_TOLD = 5  # names of concepts in one message
CONTROLS = 3  # kept concepts that an attack which learns is tried on


def attack_sets(concept_list: ConceptList, data: Path, *, strict: bool = True) -> tuple[list[EvaluationSet], list[str]]:
    """Returns the sets of a list's attacks, and a line for each whose file is missing.

    Args:
        concept_list: the list.
        data: folder of the user's own files.
        strict: whether an attack that has no prompt for any of the targets is an error; else it is left out.

    Raises:
        ConceptListError: such an attack.
        ValueError: a file has a bad row.
    """
    sets, notes = [], []
    for attack in {each.name: each for each in concept_list.evaluation.attacks}.values():
        if attack.csv is None:
            found = _by_search(concept_list, attack.name)
            if not found:
                found = _by_rule(concept_list, attack.name)
            if not found and strict:
                raise ConceptListError(
                    [f"evaluation.attacks: {attack.name!r} asks for none of the list's targets; remove it"]
                )
            sets += found
        elif (data / attack.csv).is_file():
            sets.append(_by_file(concept_list, attack, data / attack.csv))
        else:
            needed = ["prompt"] if attack.concept else ["prompt", "concept"]
            notes.append(left_out(f"{ATTACK}{attack.name}", data / attack.csv, needed, attack.columns))
    return sets, notes


def _by_search(concept_list: ConceptList, name: str) -> list[EvaluationSet]:
    """Returns what an attack that learns its texts draws, and its control: the same searches for kept concepts."""
    attack, evaluation = attack_of(name), concept_list.evaluation
    if not isinstance(attack, Search):
        return []
    asked = EvaluationSet(
        name=f"{ATTACK}{name}",
        role="erased",
        domain=concept_list.domain,
        concepts=tuple(target.name for target in concept_list.targets),
        seeds=evaluation.seeds,
        first_seed=evaluation.first_seed,
        search=name,
        steps=(evaluation.budget.steps or attack.steps) if attack.steps else 0,
        starts=min(evaluation.budget.starts, attack.starts_at_most or evaluation.budget.starts),
    )
    kept = concept_list.kept[:CONTROLS]
    if not kept:
        return [asked]
    return [asked, asked.model_copy(update={"name": f"{CONTROL}{name}", "role": "control", "concepts": kept})]


def _by_rule(concept_list: ConceptList, name: str) -> list[EvaluationSet]:
    """Returns the prompts of an attack of the table, drawn with the evaluation's own seeds; nothing if none asks."""
    erased = [target.name for target in concept_list.targets]
    written = [
        (target.name, prompt)
        for target in concept_list.targets
        for prompt in attack_of(name).prompts(Sought(target.name, target.aliases, erased, concept_list.kept))
    ]
    if not written:
        return []
    return [
        EvaluationSet(
            name=f"{ATTACK}{name}",
            role="erased",
            domain=concept_list.domain,
            concepts=tuple(dict.fromkeys(concept for concept, _ in written)),
            seeds=concept_list.evaluation.seeds,
            first_seed=concept_list.evaluation.first_seed,
            written=tuple(written),
        )
    ]


def _by_file(concept_list: ConceptList, attack: ListedAttack, path: Path) -> EvaluationSet:
    """Returns the rows of a file that ask for an erased concept; the others are left out, and counted in words."""
    name = f"{ATTACK}{attack.name}"
    about = {normalise(each): concept_list.target(each).name for each in concept_list.erased_names}
    if attack.concept is not None:
        about = {"": concept_list.target(attack.concept).name}
    seed = concept_list.evaluation.first_seed if attack.first_seed is None else attack.first_seed
    file = open_prompts(path, attack.columns, seed=seed, concepts=attack.concept is None)
    asked: Counter[str] = Counter()
    others: Counter[str] = Counter()
    empty = 0
    for row in file.rows():
        target = about.get(normalise(row.concept))
        (others if target is None else asked)[target or row.concept] += 1
        empty += not row.prompt
    rows = asked.total() + others.total()
    names = ", ".join(list(others)[:MOST_TOLD]) + (", …" if len(others) > MOST_TOLD else "")
    passed = f"; {others.total():,} are left out, since the list does not erase {names}" if others else ""
    taken = told(name, file, rows, empty, passed)
    if not asked:
        raise ValueError(
            f"{path}: no row asks for one of the list's targets, but for {names}; name the column that says what a "
            "prompt asks for under `columns`, or the target that all of them ask for as `concept`"
        )
    return EvaluationSet(
        name=name,
        role="erased",
        domain=concept_list.domain,
        concepts=tuple(asked),
        csv=str(path),
        columns=attack.columns,
        file_seed=file.seed,
        rows=asked.total(),
        taken=taken if attack.concept is None else f"{taken.removesuffix('.')}, every row asks for {attack.concept!r}.",
        about=about,
    )

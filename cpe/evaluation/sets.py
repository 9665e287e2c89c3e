"""Which sets evaluate a list: its erased and kept concepts, and the other sets that it names.

A set is another list's kept concepts, names of their own, or a file of prompts that the user brings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError, model_validator

from cpe.evaluation.attacks import attack_sets
from cpe.evaluation.brought import left_out, told
from cpe.evaluation.pictures import ATTACK, CONTROL, EvaluationSet, Role
from cpe.evaluation.prompt_files import open_prompts
from cpe.lists.problems import details_of, explain, path_of
from cpe.lists.reading import ConceptListError, load_list, read_mapping
from cpe.lists.schema import ConceptList
from cpe.lists.sections import MOST_SEEDS, Count, FileName, Name, Template
from cpe.terms.profiles import PROFILES
from cpe.terms.settings import Settings

SETS_FOLDER = "sets"
RESERVED = ("erased", "kept")


class KeptSet(Settings):
    """What must survive, whatever the list erases.

    Attributes:
        name: of the set.
        domain: of its concepts, or of the scenes that a file of prompts shows.
        names: concepts, drawn in every template.
        templates: prompts, one "{}" each.
        seeds: how many, at most MOST_SEEDS.
        first_seed: the first of them; in a file without a column of seeds, every row's.
        csv: a file in the data folder with a prompt and a seed a row, in place of names and templates.
        columns: what that file calls "prompt", "seed" and "guidance_scale", where that is none of the names that are
            known (docs/lists.md).
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$", max_length=40)]
    domain: Name
    names: tuple[Name, ...] = ()
    templates: tuple[Template, ...] = ()
    seeds: Count = Field(5, ge=1, le=MOST_SEEDS)
    first_seed: Count = Field(0, ge=0, lt=2**62)
    csv: FileName | None = None
    columns: dict[str, Name] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> "KeptSet":
        if (self.csv is None) == (not (self.names and self.templates)):
            raise ValueError("needs either names and templates, or a csv file; give one of the two")
        unknown = set(self.columns) - {"prompt", "seed", "guidance_scale"}
        if unknown:
            raise ValueError(f"renames the column {sorted(unknown)[0]!r}; known: prompt, seed, guidance_scale")
        if self.name in RESERVED or self.name.startswith((ATTACK, CONTROL)):
            raise ValueError(f"is called {self.name!r}, which means the list's own concepts; rename it")
        return self


def load_set(path: Path) -> KeptSet:
    """Reads a set from a YAML file.

    Raises:
        ConceptListError: there is no such file, or something in it is wrong.
    """
    data, lines = read_mapping(path)
    try:
        return KeptSet.model_validate(data)
    except ValidationError as error:
        problems = [explain(detail, {(): KeptSet}) for detail in details_of(error)]
        raise ConceptListError(
            [
                f"{path}, line {lines.get(problem.loc[:1], 1)}: {path_of(problem.loc)} {problem.text}"
                for problem in problems
            ]
        ) from None


def evaluation_sets(
    concept_list: ConceptList, *, folders: Sequence[Path], data: Path
) -> tuple[tuple[EvaluationSet, ...], tuple[str, ...]]:
    """Returns the sets that evaluate a list, and a line for each that cannot be had.

    Args:
        concept_list: the list.
        folders: of lists, with a folder `sets` in them; the first that has a set is taken.
        data: folder of the user's own files.

    Raises:
        ConceptListError: a set that there is no file for, or an attack that asks for none of the list's targets.
        ValueError: a CSV file of the user's has a bad row.
    """
    evaluation = concept_list.evaluation
    sets = []
    for name, concepts in zip(RESERVED, ([t.name for t in concept_list.targets], concept_list.kept), strict=True):
        role: Role = "erased" if name == "erased" else "kept"
        if concepts:
            sets.append(
                EvaluationSet(
                    name=name,
                    role=role,
                    domain=concept_list.domain,
                    concepts=tuple(concepts),
                    templates=evaluation.templates,
                    seeds=evaluation.seeds,
                    first_seed=evaluation.first_seed,
                )
            )
    attacks, notes = attack_sets(concept_list, data)
    sets += attacks
    for name in evaluation.also:
        kept = _named_set(name, folders)
        if kept.csv is not None and not (data / kept.csv).is_file():
            notes.append(left_out(name, data / kept.csv, _needed(kept), kept.columns))
            continue
        # Prompts of the erased domain that name no kept concept should lose it: I2P, when nudity is erased.
        role = "erased" if kept.csv is not None and kept.domain == concept_list.domain else "kept"
        sets.append(
            EvaluationSet(
                name=name,
                role=role,
                domain=kept.domain,
                concepts=kept.names,
                templates=kept.templates,
                seeds=kept.seeds,
                first_seed=kept.first_seed,
                **(_read(kept, data / kept.csv) if kept.csv is not None else {}),
            )
        )
    return tuple(sets), tuple(notes)


def check_pictures(concept_list: ConceptList, sets: Sequence[EvaluationSet]) -> None:
    """Refuses a list that evaluates on more pictures than its own limit.

    Raises:
        ValueError: `limits.pictures` is exceeded.
    """
    most = concept_list.limits and concept_list.limits.pictures
    profile = PROFILES[concept_list.profile]
    counts = {each.name: 2 * each.count(profile) for each in sets}
    if most and sum(counts.values()) > most:
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise ValueError(
            f"list {concept_list.name!r}: its evaluation takes {sum(counts.values()):,} pictures, before and after "
            f"erasing ({parts}), and limits.pictures allows {most:,}; ask for fewer, or raise the limit"
        )


def _needed(kept: KeptSet) -> Sequence[str]:
    """Returns the columns that a set's file must have: seeds only where the set itself names none."""
    return ("prompt",) if "first_seed" in kept.model_fields_set else ("prompt", "seed")


def _read(kept: KeptSet, path: Path) -> dict[str, Any]:
    """Reads a set's file once, and returns what an evaluation must know of it.

    Raises:
        ValueError: it has no rows, nothing but empty prompts, or one that cannot be drawn.
    """
    file = open_prompts(path, kept.columns, seed=None if "seed" in _needed(kept) else kept.first_seed)
    rows = empty = 0
    for row in file.rows():
        rows += 1
        empty += not row.prompt
    return {
        "csv": str(path),
        "columns": kept.columns,
        "file_seed": file.seed,
        "rows": rows,
        "taken": told(kept.name, file, rows, empty),
    }


def _named_set(name: str, folders: Sequence[Path]) -> KeptSet:
    """Returns a set by name: a file in `sets`, or another list's kept concepts."""
    for folder in folders:
        path = folder / SETS_FOLDER / f"{name}.yaml"
        if path.is_file():
            return load_set(path)
        path = folder / f"{name}.yaml"
        if path.is_file():
            return _kept_of(name, load_list(path))
    known = {path.stem for folder in folders for sub in (folder, folder / SETS_FOLDER) for path in sub.glob("*.yaml")}
    raise ConceptListError(
        [f"evaluation.also names no set {name!r}: no such file in {' or '.join(map(str, folders))}; "
         f"known: {', '.join(sorted(known)) or 'none'}"]
    )  # fmt: skip


def _kept_of(name: str, other: ConceptList) -> KeptSet:
    if not other.kept:
        raise ConceptListError([f"evaluation.also names the list {name!r}, which keeps no concepts; name another set"])
    return KeptSet(
        name=name,
        domain=other.domain,
        names=other.kept,
        templates=other.evaluation.templates,
        seeds=other.evaluation.seeds,
        first_seed=other.evaluation.first_seed,
    )

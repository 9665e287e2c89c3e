"""The ways of erasing that a list is compared in: the same list and pictures, other methods, seeds, shares of it."""

from collections.abc import Sequence
from typing import Any

from cpe.lists.schema import ConceptList
from cpe.lists.sections import Training
from cpe.methods.base import Method, method_of
from cpe.methods.table import METHODS
from cpe.terms.settings import Settings, added_later
from wording.foreign import show

TRAINING_SEEDS, MOST_TRAINING_SEEDS = 3, 100
PUBLISHED = "published"  # the preset of a method that has none for a list of this kind


class Way(Settings):
    """One way of erasing a list.

    Attributes:
        method: a key of `cpe.methods.table.METHODS`.
        training: its settings.
        seed: of the training.
        erased: how many of the list's targets, the first ones; None is all.
    """

    method: str
    training: Training
    seed: int
    erased: int | None = added_later(None, ge=1)

    @property
    def seeded(self) -> bool:
        """Whether the seed makes a difference."""
        return method_of(self.method).seeded

    def of(self, concept_list: ConceptList) -> ConceptList:
        """Returns the list, erased this way; bars are asked of its own method alone."""
        values: dict[str, Any] = concept_list.model_dump()
        if self.method != concept_list.method:
            values |= {"bars": {}, "comparison": {}}
        if self.erased is not None:
            values["targets"] = values["targets"][: self.erased]
        return ConceptList.model_validate(values | self.model_dump(exclude={"erased"}))


def ways_of(
    concept_list: ConceptList, methods: Sequence[str], seeds: int, erased: Sequence[int] = ()
) -> tuple[Way, ...]:
    """Returns the ways to compare: each method with the list's seed and those that follow it, for each number erased.

    A method whose result does not depend on the seed is one way, with the list's own.

    Args:
        concept_list: the list.
        methods: keys of `cpe.methods.table.METHODS`, each counted once; none means all that have a preset for it.
        seeds: how many, 1 to MOST_TRAINING_SEEDS.
        erased: how many of the list's targets to erase, one number after the other; none means all of them, once.

    Raises:
        ValueError: no such method, a number of seeds or targets out of range, or a method that was named and has no
            preset for the list.
    """
    targets = len(concept_list.targets)
    if wrong := [count for count in erased if not 1 <= count <= targets]:
        raise ValueError(f"list {concept_list.name!r} has {targets} targets to erase, asked for {wrong[0]}")
    if not 1 <= seeds <= MOST_TRAINING_SEEDS:
        raise ValueError(f"seeds must be 1 to {MOST_TRAINING_SEEDS} training seeds, got {seeds}")
    chosen = [method_of(name) for name in dict.fromkeys(methods or METHODS)]
    trainings = {each: _training(concept_list, each) for each in chosen}
    lacking = [each for each, training in trainings.items() if training is None]
    if methods and lacking:
        method = lacking[0]
        raise ValueError(
            f"method {method.name!r} has no preset {show(concept_list.training.preset)} and none called "
            f"{PUBLISHED!r}; write `comparison: {{{method.name}: {{preset: …}}}}` into the list "
            f"({', '.join(method.presets)}), or compare other methods with --method"
        )
    return tuple(
        Way(method=each.name, training=training, seed=concept_list.seed + offset, erased=count)
        for each, training in trainings.items()
        if training is not None
        for count in (sorted(set(erased)) or (None,))
        for offset in range(seeds if each.seeded else 1)
    )


def _training(concept_list: ConceptList, method: Method) -> Training | None:
    """Returns the list's own training, what its `comparison` says, or the preset that fits; None if there is none."""
    if method.name == concept_list.method:
        return concept_list.training
    if method.name in concept_list.comparison:
        return concept_list.comparison[method.name]
    for preset in (concept_list.training.preset, concept_list.name, PUBLISHED):
        if preset in method.presets:
            return Training(preset=preset)
    return None

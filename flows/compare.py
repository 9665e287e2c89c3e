"""The comparison of ways of erasing: one list, the same prompts and seeds, several methods and training seeds."""

import sys
from typing import Any

from prefect import flow

from cpe.lists.comparison import TRAINING_SEEDS
from flows.stages import erase_and_measure
from tasks.comparison.rows import Measured
from tasks.here.clock import Clock
from tasks.steps import check_limits, choose_ways, prepare_concepts, store_plan, write_comparison


@flow(name="compare")
def compare(
    list: str = "emoji",
    methods: list[str] | None = None,
    seeds: int = TRAINING_SEEDS,
    profile: str | None = None,
    workers: int = 1,
    erased: list[int] | None = None,
    concepts: str | None = None,
) -> dict[str, Any]:
    """Erases a list in several ways, measures all on the same pictures, and writes one page and one table.

    Nothing is registered. What is stored already, by a run of the list or by another comparison, is not made again.

    Args:
        list: a concept list: its path, or its name in `lists/`.
        methods: ways of erasing, by name; None is all that there are.
        seeds: how many training seeds each gets that draws anything at random, from the list's own on.
        profile: how pictures are made, in place of the list's own profile.
        workers: of the pool, to share training, drawing and looking at pictures with.
        erased: how many of the list's targets to erase, one number after the other; None is all of them.
        concepts: former name of `list`, which earlier deployments give; it counts where it is given.

    Returns:
        The comparison, as `cpe compare --json` prints it.
    """
    clock = Clock()
    with clock.stage("prepare"):
        name = concepts or list
        ways = choose_ways(name, methods, seeds, erased)
        plans = [prepare_concepts(name, profile, way) for way in ways]
        for plan in plans:
            check_limits(plan)
    measured = []
    for number, (way, plan) in enumerate(zip(ways, plans, strict=True), 1):
        count = f", {way.erased} erased" if way.erased else ""
        print(f"{number} of {len(ways)}: {way.method}, training seed {way.seed}{count}", file=sys.stderr)
        _, scores = erase_and_measure(plan, store_plan(plan), workers, clock)
        measured.append(Measured(way, plan, scores))
    with clock.stage("compare"):
        return write_comparison(measured, seeds)


if __name__ == "__main__":
    compare()

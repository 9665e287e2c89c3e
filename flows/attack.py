"""Attacks on a list's gates: other words that ask for erased concepts, and texts learned to bring them back."""

from typing import Any

from prefect import flow

from flows.stages import erase_and_measure
from tasks.here.clock import Clock
from tasks.steps import attack_figures, attacked, check_limits, prepare_concepts, store_plan


@flow(name="attack")
def attack(
    list: str = "emoji",
    attacks: list[str] | None = None,
    profile: str | None = None,
    workers: int = 1,
    steps: int | None = None,
    starts: int | None = None,
    concepts: str | None = None,
) -> dict[str, Any]:
    """Attacks what erases a list's concepts; gates that are missing are trained first.

    Args:
        list: a concept list: its path, or its name in `lists/`.
        attacks: names of `cpe.attacks.table.ATTACKS`; None takes the list's own, or all if it names none.
        profile: how pictures are made, in place of the list's own profile.
        workers: of the pool, to share the work with.
        steps: of each search; None: as the list says.
        starts: searches for each concept and attack; None: as the list says.
        concepts: former name of `list`, which earlier deployments give; it counts where it is given.

    Returns:
        Each attack's success rate, as `cpe attack --json` prints them.

    Raises:
        ConceptListError: an attack or budget that there is none of.
    """
    plan = attacked(prepare_concepts(concepts or list, profile), attacks, steps=steps, starts=starts)
    check_limits(plan)
    _, scores = erase_and_measure(plan, store_plan(plan), workers, Clock())
    return attack_figures(plan, scores)


if __name__ == "__main__":
    attack()

"""The main flow: from a concept list to measured, registered gates."""

from typing import Any

from prefect import flow

from flows.stages import erase_and_measure
from tasks.here.clock import Clock
from tasks.steps import (
    check_limits,
    decide,
    plan_training,
    prepare_concepts,
    register_bundle,
    save_results,
    store_plan,
    write_report,
)


@flow(name="erase-and-evaluate")
def erase_and_evaluate(
    list: str = "emoji",
    profile: str | None = None,
    workers: int = 1,
    content: str | None = None,
    concepts: str | None = None,
) -> dict[str, Any]:
    """Erases a list's concepts from its base model, measures the result, registers and perhaps promotes it.

    Args:
        list: a concept list: its path, or its name in `lists/`.
        profile: how pictures are made, in place of the list's own profile.
        workers: of the pool, to share training, drawing and looking at pictures with.
        content: hash of what the watcher saw in the list when it asked for this run, for the run's record; the list is
            worked on as it is when the run begins.
        concepts: former name of `list`, which earlier deployments give; it counts where it is given.

    Returns:
        The run's figures, as `cpe results --json` prints them.
    """
    clock = Clock()
    with clock.stage("prepare"):
        plan = prepare_concepts(concepts or list, profile)
        check_limits(plan)
        address = store_plan(plan)
        missing = plan_training(plan)
    bundle, scores = erase_and_measure(plan, address, workers, clock)
    with clock.stage("register"):
        registered = register_bundle(plan, bundle, scores, clock.seconds)
        decision = decide(plan, registered, scores)
    with clock.stage("report"):
        report = write_report(plan, registered, decision, scores, clock.seconds, missing)
    return save_results(plan, registered, decision, scores, report, clock.seconds, missing)


if __name__ == "__main__":
    erase_and_evaluate()

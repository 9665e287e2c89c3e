"""The main flow: from a concept list to measured, registered gates."""

from typing import Any

from prefect import flow

from tasks.clock import Clock
from tasks.draw import draw_pictures
from tasks.measure import measure
from tasks.prepare import encode_concepts, prepare_concepts
from tasks.publish import promote_if_good, register_bundle, save_results
from tasks.report import write_report
from tasks.train import assemble_bundle, plan_training, train_gates


@flow(name="erase-and-evaluate")
def erase_and_evaluate(concepts: str = "emoji") -> dict[str, Any]:
    """Erases a list's concepts from its base model, measures the result, registers and perhaps promotes it.

    Args:
        concepts: a concept list: its path, or its name in `lists/`.

    Returns:
        The run's figures, as `cpe results --json` prints them.
    """
    clock = Clock()
    with clock.stage("prepare"):
        plan = prepare_concepts(concepts)
        missing = plan_training(plan)
    with clock.stage("encode"):
        for group in missing:
            encode_concepts(plan, group)
    with clock.stage("train"):
        for group in missing:
            train_gates(plan, group)
        bundle = assemble_bundle(plan)
    with clock.stage("draw before"):
        before = draw_pictures(plan, None)
    with clock.stage("draw after"):
        after = draw_pictures(plan, bundle)
    with clock.stage("measure"):
        scores = measure(plan, bundle, before, after)
    with clock.stage("register"):
        registered = register_bundle(plan, bundle, scores, clock.seconds)
        champion = promote_if_good(plan, registered, scores)
    with clock.stage("report"):
        pictures = {"before": before, "after": after}
        report = write_report(plan, registered, champion, pictures, scores, clock.seconds, missing)
    return save_results(plan, registered, champion, scores, report, clock.seconds, missing)


if __name__ == "__main__":
    erase_and_evaluate()

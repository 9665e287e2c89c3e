"""The stages that a list goes through until it is measured, each shared with other workers."""

from artifacts.disk import StoreError
from flows.share import share
from tasks.here.clock import Clock
from tasks.plan import Plan
from tasks.steps import assemble_bundle, look_at_pictures, measure


def erase_and_measure(plan: Plan, address: str, workers: int, clock: Clock) -> tuple[str, str]:
    """Trains what the store lacks, lets attacks search, draws before and after, looks, and scores.

    Args:
        plan: the list made ready.
        address: where it is stored.
        workers: how many share each stage.
        clock: counts the seconds of each.

    Returns:
        The bundle's id and the scores' address.
    """
    with clock.stage("train"):
        share(plan, address, "train", workers)
        bundle = assemble_bundle(plan)
    if any(each.search for each in plan.sets):
        with clock.stage("attack"):
            share(plan, address, "attack", workers)
    with clock.stage("draw before"):
        share(plan, address, "draw before", workers)
    with clock.stage("draw after"):
        share(plan, address, "draw after", workers)
    with clock.stage("measure"):
        share(plan, address, "look", workers)
        try:
            scores = measure(plan, bundle)
        except StoreError:  # what others stored is damaged, or an observer that was missing is there now
            look_at_pictures(plan, bundle)
            scores = measure(plan, bundle)
    return bundle, scores

"""What one run of a list may cost: its own limits, checked before anything is trained or drawn."""

import sys
from collections.abc import Sequence

from cpe.evaluation.sets import check_pictures
from tasks.desk.cost import Cost, Rates, estimate, measure_rates
from tasks.here.places import Places
from tasks.plan import Plan
from wording.figures import duration

NOTHING = Rates(0.0, 0, 0.0, 0.0, 0.0, 0)


def check_limits(places: Places, plan: Plan) -> None:
    """Refuses a list that would cost more than its limits allow.

    Raises:
        ValueError: `limits.pictures` or `limits.hours` is exceeded.
    """
    check_pictures(plan.concepts, plan.sets)
    hours = plan.concepts.limits and plan.concepts.limits.hours
    if hours and any(cost.todo for cost in estimate(plan, NOTHING, places)):
        print("limits.hours: measuring rates on this device ...", file=sys.stderr)
        check_costs(plan, estimate(plan, measure_rates(plan, places), places))


def check_costs(plan: Plan, costs: Sequence[Cost]) -> None:
    """Refuses costs, as `tasks.desk.cost` estimates them, above the list's limits.

    Raises:
        ValueError: `limits.pictures` or `limits.hours` is exceeded.
    """
    check_pictures(plan.concepts, plan.sets)
    hours = plan.concepts.limits and plan.concepts.limits.hours
    seconds = sum(cost.seconds for cost in costs)
    if hours and seconds > 3600 * hours:
        parts = ", ".join(f"{cost.work} {duration(cost.seconds)}" for cost in costs if cost.seconds)
        raise ValueError(
            f"list {plan.concepts.name!r}: what is still to do takes some {duration(seconds)} on this device "
            f"({parts}), and limits.hours allows {duration(3600 * hours)}; ask for less, or raise the limit"
        )

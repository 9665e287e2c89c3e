"""What the Prefect server does by itself, whether a worker is free or not; made by `prefect deploy` (prefect.yaml).

A run that sends no heartbeats is called crashed. A tick of the watcher that no worker takes is given up just before the
next one is due, so that one waits at a time, however long the workers are busy or away.
"""

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.states import StateType

from tasks.watch.runs import FLOW, HEARTBEAT, PART, SILENCE, SILENT_S, WATCHER

GIVEN_UP = "No worker was free; the next tick is due."
BEGUN = ("Submitting", "Pending", "Running")
LATE_S = 15  # the server calls a run late once it waits for so long
MARGIN_S = 15  # of what a server takes until it acts


def declare(interval_s: int) -> None:
    """Makes the server's automations, or brings them up to date; what is as it should be is left alone.

    Args:
        interval_s: from one tick of the watcher to the next, at least 60.
    """
    with get_client(sync_client=True) as client:
        for wanted in (crashed_without_heartbeats(), one_tick_waits(interval_s)):
            found = client.read_automations_by_name(wanted.name)
            for double in found[1:]:
                client.delete_automation(double.id)
            if not found:
                client.create_automation(wanted)
            elif AutomationCore(**found[0].model_dump()).model_dump() != wanted.model_dump():
                client.update_automation(found[0].id, wanted)


def crashed_without_heartbeats() -> AutomationCore:
    """Returns what ends the runs of killed workers."""
    return AutomationCore(
        name="CPE: a run without heartbeats has crashed",
        description="Its worker or machine was killed. The watcher starts the list's work again.",
        trigger=_silence({HEARTBEAT, *_states(*BEGUN)}, {"prefect.flow-run.*"}, [FLOW, PART, WATCHER], SILENT_S),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=SILENCE)],
    )


def one_tick_waits(interval_s: int) -> AutomationCore:
    """Returns what gives up a waiting tick of the watcher before the next one is due."""
    began_or_ended = _states(*BEGUN, "Completed", "Failed", "Crashed", "Cancelled")
    return AutomationCore(
        name="CPE: one tick of the watcher waits",
        description="All workers were busy or away until the next tick was due.",
        trigger=_silence(_states("Late"), began_or_ended, [WATCHER], interval_s - LATE_S - MARGIN_S),
        actions=[ChangeFlowRunState(state=StateType.CANCELLED, message=GIVEN_UP)],
    )


def _silence(after: set[str], expect: set[str], flows: list[str], within_s: float) -> EventTrigger:
    """Returns a trigger that is pulled for each run of which nothing is heard after an event."""
    return EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related=[{"prefect.resource.role": "flow", "prefect.resource.name": flows}],
        for_each={"prefect.resource.id"},
        after=after,
        expect=expect,
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=within_s),
    )


def _states(*names: str) -> set[str]:
    return {f"prefect.flow-run.{name}" for name in names}

"""The watcher: on a schedule, tells of every list that changed; a trigger in prefect.yaml starts the work."""

from datetime import UTC, datetime, timedelta

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypes
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events import emit_event

from tasks.watch import changed_lists

EVENT = "cpe.list-changed"
UNDER_WAY = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


@flow(name="watch-concepts")
def watch_concepts(lists: list[str], patience_h: float = 24.0) -> list[str]:
    """Emits an event for each changed list that no run is working on, and returns their names.

    A list is up to date when its champion was made from its present content. So a lost event, a run that failed or was
    killed, a change in the middle of a run and a list that is changed back are all noticed at the next tick. One that
    only a person can bring forward (its gates were rolled back, or fell short of its bars) is told in the log.

    Args:
        lists: names of lists to watch.
        patience_h: a run that began longer ago is taken for dead (its worker was killed).
    """
    logger = get_run_logger()
    busy = _worked_on(timedelta(hours=patience_h))
    told = []
    for changed in changed_lists(lists):
        if changed.problem is not None:
            logger.error("list %s cannot be read: %s", changed.name, changed.problem)
        elif changed.waits is not None:
            logger.warning("list %s is not what its champion was made from: %s", changed.name, changed.waits)
        elif changed.name in busy:
            logger.info("list %s has changed, and a run works on it: looked at again at the next tick", changed.name)
        else:
            logger.info("list %s (%s): %s", changed.name, changed.list_hash[:12], changed.why)
            emit_event(
                EVENT,
                resource={"prefect.resource.id": f"cpe.list.{changed.name}"},
                payload={"list": changed.name, "list_hash": changed.list_hash},
            )
            told.append(changed.name)
    return told


def _worked_on(patience: timedelta) -> set[str]:
    """Returns the lists that runs are working on, or soon will be."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["erase-and-evaluate"])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=StateTypes(any_=UNDER_WAY))),
        )
    return {str(run.parameters.get("concepts", "emoji")) for run in runs if _is_alive(run, patience)}


def _is_alive(run: FlowRun, patience: timedelta) -> bool:
    began = run.start_time or run.expected_start_time
    return began is None or datetime.now(UTC) - began < patience

"""The watcher: on a schedule, tells of every list that changed; a trigger in prefect.yaml starts the work."""

import logging

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from tasks.steps import changed_lists
from tasks.watch.attempts import FAILING, WAITS_MIN, Attempts, attempts, ended_runs, is_told, resource_of
from tasks.watch.events import ChangedList
from tasks.watch.runs import LISTEN_S, list_key, look_at_runs, put_right

EVENT = "cpe.list-changed"
Log = logging.Logger | logging.LoggerAdapter  # type: ignore[type-arg]


@flow(name="watch-concepts")
def watch_concepts(
    lists: list[str], waits_min: tuple[float, ...] = WAITS_MIN, listen_s: float = LISTEN_S
) -> list[str] | State:
    """Emits an event for each changed list that no living run is working on, and returns their names.

    A list is up to date when its champion was made from its present content. So a lost event, a run that failed or was
    killed, a change in the middle of a run and a list that is changed back are all noticed at the next tick. One that
    only a person can bring forward (its gates were rolled back, or fell short of its bars) is told in the log; one that
    was worked on in vain waits, longer each time, and people are told once (event `cpe.list-failing`). A list that
    cannot be read fails this run once it has looked at the others: that is what the UI shows in red, with the message.

    One tick works at a time: while an earlier one lives, this one gives up. Heartbeats say whether it does, so that no
    tick that died with its worker, or with the server's memory of it, is in the way for longer than two minutes.

    Args:
        lists: names of lists to watch.
        waits_min: minutes to wait after the first run in vain, the second, and so on; the last holds from there on.
        listen_s: how long a run that seems dead is listened to before another may take its place.
    """
    log = get_run_logger()
    told, broken = [], []
    with get_client(sync_client=True) as client:
        work = look_at_runs(client, listen_s=listen_s)
        for run in work.dead:
            log.warning("run %s gives no sign of life: its worker was killed", run.name)
        put_right(client, work)
        if work.ticks and str(work.ticks[0].id) != flow_run.id:
            return Cancelled(message=f"Tick {work.ticks[0].name} is at work.")
        ended = ended_runs(client)
        for changed in changed_lists(lists):
            if changed.problem is not None:
                log.error("list %s cannot be read: %s", changed.name, changed.problem)
                broken.append(f"list {changed.name} cannot be read: {changed.problem}")
            elif changed.waits is not None:
                log.warning("list %s is not what its champion was made from: %s", changed.name, changed.waits)
            elif list_key(changed.name) in work.busy:
                log.info("list %s has changed, and a run works on it: looked at again at the next tick", changed.name)
            elif _may_run(client, log, changed, attempts(ended, changed.name, changed.list_hash, waits_min)):
                log.info("list %s (%s): %s", changed.name, changed.list_hash[:12], changed.why)
                _emit(EVENT, changed)
                told.append(changed.name)
    return Failed(message="; ".join(broken)) if broken else told


def _may_run(client: SyncPrefectClient, log: Log, changed: ChangedList, found: Attempts) -> bool:
    """Whether a list may be worked on now; tells people, once, of one that fails."""
    if found.count and not is_told(client, changed.name, found):
        log.error("list %s fails: %s", changed.name, found)
        _emit(FAILING, changed, since=str(found.runs[-1].id), count=found.count, message=found.message)
    if found.waits:
        log.info("list %s: %s", changed.name, found)
    return not found.waits


def _emit(event: str, changed: ChangedList, **more: object) -> None:
    emit_event(
        event,
        resource={"prefect.resource.id": resource_of(changed.name)},
        payload={"list": changed.name, "list_hash": changed.list_hash, **more},
    )

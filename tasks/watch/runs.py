"""Which runs of the main flow live: a run sends heartbeats while it does, whatever its record says.

A killed worker or machine leaves its runs' records as they were. And a record may be wrong the other way: a server that
was away for a while takes runs for dead that it could not hear. So heartbeats decide, and records are put right. A run
that seems silent is listened to for longer than one heartbeat before it is believed dead: the server may be back only
now, and clocks may differ.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypes
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.events.schemas.events import ReceivedEvent
from prefect.states import Crashed, Running

FLOW, WATCHER, PART = "erase-and-evaluate", "watch-concepts", "work-on-part"
HEARTBEAT = "prefect.flow-run.heartbeat"
HEARTBEAT_S = 30  # Prefect's shortest
SILENT_S = 75  # without a sign of life for so long, two heartbeats having failed to come, a run may be dead
LISTEN_S = HEARTBEAT_S + 10.0
POLL_S = 2.0
LATE_NEWS_S = 5.0  # a heartbeat may arrive so long after the end of its run
CRASHES_LOOKED_AT = 20
PAGE = 200
SILENCE = "No heartbeats: its worker was killed."
WAITING = (StateType.SCHEDULED, StateType.PAUSED)  # for a worker, or for a person
WORKING = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


@dataclass(frozen=True)
class Work:
    """What is being worked on.

    Attributes:
        busy: each list that a run works on, or waits to, and that run.
        dead: runs that live only in their records.
        undead: runs that are dead only in their records.
        ticks: of the watcher that live, those that began first first.
    """

    busy: dict[str, FlowRun]
    dead: list[FlowRun]
    undead: list[FlowRun]
    ticks: list[FlowRun]


def list_of(run: FlowRun) -> str:
    """Returns what `list_key` makes of the list that a run of the main flow works on."""
    return list_key(str(run.parameters.get("concepts") or run.parameters.get("list", "emoji")))


def list_key(name: str) -> str:
    """Returns one name for a list, which runs may be given by its name or by its path."""
    return Path(name).stem


def look_at_runs(client: SyncPrefectClient, *, listen_s: float = LISTEN_S) -> Work:
    """Returns which runs of the main flow live, and of which runs, other flows' too, the records say otherwise.

    Args:
        client: of the Prefect server.
        listen_s: how long to listen to silent runs; 0 believes the past alone.
    """
    of_lists = runs(client, WAITING + WORKING) + runs(client, (StateType.CRASHED,), limit=CRASHES_LOOKED_AT)
    ticks, parts = (runs(client, WORKING, flow=flow) for flow in (WATCHER, PART))
    living: list[FlowRun] = []
    silent: list[tuple[FlowRun, ReceivedEvent | None]] = []
    for run in of_lists + ticks + parts:
        if run.state_type in WAITING:
            living.append(run)
            continue
        heard = last_heartbeat(client, run)
        if _gave_sign(run, heard):
            living.append(run)
        elif not _is_crashed(run) or (_is_thought_dead(run) and age_s(changed_at(run)) < listen_s):
            silent.append((run, heard))
    end = time.monotonic() + listen_s
    while silent and time.monotonic() < end:
        time.sleep(POLL_S)
        heard_now = {run.id for run, before in silent if last_heartbeat(client, run) != before}
        living += [run for run, _ in silent if run.id in heard_now]
        silent = [(run, before) for run, before in silent if run.id not in heard_now]
    return Work(
        busy={list_of(run): run for run in living if run in of_lists},
        dead=[run for run, _ in silent if not _is_crashed(run)],
        undead=[run for run in living if _is_crashed(run)],
        ticks=sorted((run for run in living if run in ticks and run.start_time), key=_began),
    )


def put_right(client: SyncPrefectClient, work: Work) -> None:
    """Writes into the runs' records which of them are dead and which live after all."""
    for run in work.dead:
        client.set_flow_run_state(run.id, Crashed(message=SILENCE), force=True)
    for run in work.undead:
        client.set_flow_run_state(run.id, Running(message="It was thought dead, and is not."), force=True)


def runs(
    client: SyncPrefectClient, states: Sequence[StateType], *, limit: int | None = None, flow: str = FLOW
) -> list[FlowRun]:
    """Returns a flow's runs in these states, those that began or were to begin last first.

    Args:
        client: of the Prefect server.
        states: which.
        limit: at most so many; None for all.
        flow: its name.
    """
    found: list[FlowRun] = []
    while limit is None or len(found) < limit:
        page = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=StateTypes(any_=list(states)))),
            sort=FlowRunSort.START_TIME_DESC,
            limit=PAGE if limit is None else min(PAGE, limit - len(found)),
            offset=len(found),
        )
        found += page
        if len(page) < PAGE:
            break
    return found


def last_heartbeat(client: SyncPrefectClient, run: FlowRun) -> ReceivedEvent | None:
    """Returns the last heartbeat that the server has of a run, None for none."""
    return last_event(client, HEARTBEAT, f"prefect.flow-run.{run.id}")


def last_event(client: SyncPrefectClient, event: str, resource: str) -> ReceivedEvent | None:
    """Returns the last event of a name about a thing, None for none."""
    found = client.read_events(
        EventFilter(
            occurred=EventOccurredFilter(until=datetime.now(UTC) + timedelta(days=1)),  # clocks differ
            event=EventNameFilter(name=[event]),
            resource=EventResourceFilter(id=[resource]),
        ),
        limit=1,
    )
    return found.events[0] if found.events else None


def age_s(time: datetime) -> float:
    """Returns for how long something has been so."""
    return (datetime.now(UTC) - time).total_seconds()


def changed_at(run: FlowRun) -> datetime:
    """Returns when a run came into its state."""
    when = run.state.timestamp if run.state else run.created
    return when or datetime.now(UTC)


def _gave_sign(run: FlowRun, heard: ReceivedEvent | None) -> bool:
    """Whether a run gave a sign of life lately; one that is called crashed, after that."""
    changed_s = age_s(changed_at(run))
    heard_s = age_s(heard.received) if heard else float("inf")
    if _is_crashed(run):
        return heard_s < min(SILENT_S, changed_s - LATE_NEWS_S)
    return min(changed_s, heard_s) < SILENT_S


def _began(run: FlowRun) -> tuple[datetime, str]:
    return run.start_time or datetime.now(UTC), str(run.id)


def _is_crashed(run: FlowRun) -> bool:
    return run.state_type == StateType.CRASHED


def _is_thought_dead(run: FlowRun) -> bool:
    return run.state is not None and run.state.message == SILENCE

"""What the watcher does and knows: its last tick, and for each of its lists who works on it and how that went."""

import os
from dataclasses import dataclass

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.exceptions import ObjectNotFound

from tasks.here.places import Places
from tasks.watch.attempts import Attempts, attempts, ended_runs
from tasks.watch.events import ChangedList, changed_lists
from tasks.watch.runs import WATCHER, Work, changed_at, list_key, look_at_runs, runs

DEPLOYMENT = f"{WATCHER}/every-ten-minutes"


@dataclass(frozen=True)
class Watched:
    """A list, as the watcher sees it.

    Attributes:
        name: of the list.
        state: "current" (nothing is to be done), "cannot be read", "held back" (only a person or a change of the list
            brings it forward), "is worked on", "waits for a worker", "fails", or "changed" (the next tick starts work).
        detail: more of it, in words.
        in_vain: runs of its present content that changed nothing.
        next_try: before this nothing is tried again (UTC, ISO 8601); None if nothing waits.
    """

    name: str
    state: str
    detail: str
    in_vain: int
    next_try: str | None

    @property
    def is_bad(self) -> bool:
        """Whether somebody should look."""
        return self.state in ("fails", "cannot be read")


@dataclass(frozen=True)
class Watcher:
    """The watcher.

    Attributes:
        last_tick: when its last run ended (UTC, ISO 8601), None for never.
        result: how that run ended, with its message.
        waiting: how many of its runs wait for a worker past their time.
        lists: what it watches.
    """

    last_tick: str | None
    result: str
    waiting: int
    lists: list[Watched]


def watcher(places: Places, names: list[str] | None = None) -> Watcher:
    """Returns what the watcher does and knows.

    Args:
        places: where lists and registry are.
        names: lists to tell of; None for those that the deployment watches.

    Raises:
        ValueError: no Prefect server is named, or the watcher is not deployed on it.
    """
    require_server()
    with get_client(sync_client=True) as client:
        names = watched_lists(client) if names is None else names
        work, ended = look_at_runs(client, listen_s=0), ended_runs(client)
        ticks = runs(client, tuple(TERMINAL_STATES), limit=1, flow=WATCHER)
        waiting = [run for run in runs(client, (StateType.SCHEDULED,), flow=WATCHER) if run.state_name == "Late"]
    changed = {each.name: each for each in changed_lists(places, names)}
    return Watcher(
        last_tick=changed_at(ticks[0]).isoformat(timespec="seconds") if ticks else None,
        result=_result(ticks[0]) if ticks else "it has never run",
        waiting=len(waiting),
        lists=[_watched(name, changed.get(name), work, ended) for name in names],
    )


def watched_lists(client: SyncPrefectClient) -> list[str]:
    """Returns the lists that the deployed watcher watches.

    Raises:
        ValueError: it is not deployed.
    """
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise ValueError(
            f"there is no deployment {DEPLOYMENT} on the Prefect server; run `prefect --no-prompt deploy --all`, "
            "or name the lists"
        ) from None
    return [str(name) for name in deployment.parameters.get("lists", [])]


def require_server() -> None:
    """Raises where there is no Prefect server to ask.

    Raises:
        ValueError: PREFECT_API_URL is not set.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise ValueError(
            "the watcher lives on a Prefect server; set PREFECT_API_URL (after `make up`: . work/stack/env)"
        )


def _watched(name: str, changed: ChangedList | None, work: Work, ended: list[FlowRun]) -> Watched:
    found = attempts(ended, name, changed.list_hash) if changed else Attempts((), 0, None)
    run = work.busy.get(list_key(name))
    state, detail = "current", ""
    if run is not None:
        state, detail = "waits for a worker", f"run {run.name}"
        if run.start_time:
            state, detail = "is worked on", f"run {run.name} since {run.start_time:%Y-%m-%d %H:%M} UTC"
    elif changed is not None and changed.problem is not None:
        state, detail = "cannot be read", changed.problem
    elif changed is not None and changed.waits is not None:
        state, detail = "held back", changed.waits
    elif changed is not None:
        state, detail = ("fails", str(found)) if found.count else ("changed", changed.why)
    return Watched(name, state, detail, found.count, _next_try(found))


def _next_try(found: Attempts) -> str | None:
    return found.next_at.isoformat(timespec="seconds") if found.next_at and found.waits else None


def _result(run: FlowRun) -> str:
    message = run.state.message if run.state else None
    return f"{run.state_name}: {message}" if message else str(run.state_name)

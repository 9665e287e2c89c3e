"""How often a list's present content was worked on in vain, and when it is worth another run.

What is known follows from Prefect's own records of the runs that the watcher asked for, which name that content. Runs
started by hand do not count: who started them saw how they ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.states import StateType

from tasks.watch.runs import age_s, changed_at, last_event, list_key, list_of, runs

WAITS_MIN = (10.0, 60.0, 360.0, 1440.0)  # after the first run in vain, the second, ...
FREE_CRASHES = 2  # a killed worker says nothing about the list; what kills every worker does
LOOKED_AT = 1000
FAILING = "cpe.list-failing"


@dataclass(frozen=True)
class Attempts:
    """The last runs of a list as it stands now that changed nothing.

    Attributes:
        runs: of them, the newest first.
        count: how many of them tell of a fault in the list, the program or a server; crashes count from the third on.
        next_at: when the list is worth another run.
    """

    runs: tuple[FlowRun, ...]
    count: int
    next_at: datetime | None

    @property
    def waits(self) -> bool:
        """Whether it is too early for another run."""
        return self.next_at is not None and age_s(self.next_at) < 0

    @property
    def message(self) -> str:
        """How the last of them ended; in one line."""
        state = self.runs[0].state if self.runs else None
        if state is None:
            return ""
        if state.is_completed():
            return "it ended well, and the champion is still not made from the list"
        lines = (state.message or state.name or "").strip().splitlines()
        return lines[0] if lines else ""

    def __str__(self) -> str:
        when = f", tried again after {self.next_at:%Y-%m-%d %H:%M} UTC" if self.next_at and self.waits else ""
        return f"{self.count} run(s) in vain, the last: {self.message}{when}"


def ended_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Returns the main flow's runs that have ended, the newest first."""
    return runs(client, tuple(TERMINAL_STATES), limit=LOOKED_AT)


def attempts(ended: Sequence[FlowRun], name: str, list_hash: str, waits_min: Sequence[float] = WAITS_MIN) -> Attempts:
    """Returns what became of a list as it stands now.

    Args:
        ended: what `ended_runs` gives.
        name: of the list, or its path.
        list_hash: of its present content.
        waits_min: minutes to wait after the first run in vain, the second, and so on; the last holds from there on.
    """
    asked = [run for run in ended if list_of(run) == list_key(name) and run.parameters.get("content")]
    others = [row for row, run in enumerate(asked) if run.parameters["content"] != list_hash]
    own = asked[: others[0]] if others else asked
    crashes = sum(1 for run in own if run.state_type == StateType.CRASHED)
    count = len(own) - min(crashes, FREE_CRASHES)
    if count == 0:
        return Attempts(tuple(own), 0, None)
    wait = timedelta(minutes=waits_min[min(count, len(waits_min)) - 1])
    return Attempts(tuple(own), count, changed_at(own[0]) + wait)


def is_told(client: SyncPrefectClient, name: str, found: Attempts) -> bool:
    """Returns whether people were told already that a list fails, since it began to."""
    event = last_event(client, FAILING, resource_of(name))
    return event is not None and event.payload.get("since") == str(found.runs[-1].id)


def resource_of(name: str) -> str:
    """Returns what events call a list."""
    return f"cpe.list.{name}"

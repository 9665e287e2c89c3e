"""Wall-clock seconds by stage, and what is being done right now."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_stage = ""
_work: Callable[[], str] | None = None


class Clock:
    """Adds up the seconds that stages take.

    Attributes:
        seconds: by stage, in the order in which they began.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time within the block to the stage."""
        global _stage
        _stage, started = name, time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        _stage = ""  # a block that was left by an error stays what was being done


@contextmanager
def at_work(work: Callable[[], str]) -> Iterator[None]:
    """Lets `doing` tell of some work within the block; `work` says how far it got."""
    global _work
    _work = work
    yield
    _work = None  # likewise


def doing() -> str:
    """Returns what is being done, to stand behind "interrupted" or "failed"; "" if nothing is."""
    stage = f" in stage {_stage!r}" if _stage else ""
    return stage + (f", {_work()}" if _work is not None else "")


def within_task() -> bool:
    """Whether a Prefect task is being run; asking loads nothing, since whoever runs one has loaded Prefect already."""
    context = sys.modules.get("prefect.context")
    return context is not None and context.TaskRunContext.get() is not None

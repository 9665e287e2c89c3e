"""Interruptions: held back while processes are started or stopped."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_on_end() -> None:
    """Makes a request to end (SIGTERM, a closed terminal) what Ctrl-C is: a KeyboardInterrupt."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds interruptions back until the block ends.

    Programs started inside get the default of each signal, also where the caller's shell (`make up &`) ignores SIGINT:
    Prefect's worker needs it to end cleanly.

    Raises:
        KeyboardInterrupt: at the end, if there was one.
    """
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in INTERRUPTIONS}

    def note(number: int, _: FrameType | None) -> None:
        if before[signal.Signals(number)] is not signal.SIG_IGN:
            caught.append(number)

    for number in INTERRUPTIONS:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt

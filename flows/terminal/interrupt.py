"""Ctrl-C: a command ends within seconds, with one line that says how far it got.

A terminal sends its interrupt to every process of the command, also to the Prefect server that was started beside it.
That one must outlive the command, which tells it how the run ended: without it, Prefect would try for over a minute.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flows.terminal.server import stop_prefect
from tasks.here.clock import doing

EXIT_CODE = 130  # as shells say it: 128 and the number of the signal
PATIENCE_S = 2.0


class Interrupt:
    """Waits for SIGINT beside a command: Python's own handler raises KeyboardInterrupt, which may take its time.

    Attributes:
        seen: whether the signal came.
        resumes: whether the command, given again, goes on where it was.
    """

    def __init__(self, resumes: bool) -> None:
        self.seen, self.resumes = False, resumes
        self._told = threading.Lock()

    @property
    def told(self) -> bool:
        """Whether the line was printed."""
        return self._told.locked()

    def tell(self, *, after_bar: bool = False) -> None:
        """Prints the one line, once."""
        if self._told.acquire(blocking=False):
            again = (
                "; the same command goes on from there (a training from its last checkpoint)" if self.resumes else ""
            )
            line = f"cpe: interrupted{doing()}{again}"
            print(f"\n{line}" if after_bar else line, file=sys.stderr, flush=True)

    def watch(self, signals: int) -> None:
        """Ends the process if it has not ended by itself a while after the signal, or at once at a second signal."""
        with open(signals, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                if number[0] != signal.SIGINT:
                    continue
                if self.seen:
                    self.end()
                self.seen = True
                timer = threading.Timer(PATIENCE_S, self.end)
                timer.daemon = True
                timer.start()

    def leave(self) -> None:
        """Ends the process without taking the interpreter apart, which takes seconds with torch in it."""
        sys.stdout.flush()
        os._exit(EXIT_CODE)

    def end(self) -> None:
        """Ends the process now: what it writes is whole or not there, as with any kill."""
        self.tell(after_bar=True)
        stop_prefect(wait=False)
        os._exit(EXIT_CODE)


@contextmanager
def interruptible(*, resumes: bool) -> Iterator[Interrupt]:
    """Bounds the time that a command takes to end after SIGINT; one that ignores the signal goes on ignoring it."""
    interrupt = Interrupt(resumes)
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=interrupt.watch, args=(reading,), daemon=True).start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # told of signals even while in a long call
    atexit.register(interrupt.leave)  # before Prefect's, so it is called after them
    try:
        yield interrupt
    finally:
        if not interrupt.told:  # otherwise it is watched until the process has ended
            atexit.unregister(interrupt.leave)
            signal.set_wakeup_fd(before)
            os.close(writing)

"""The end of a command: once all is written and said, the process is gone."""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def quick_end() -> Iterator[None]:
    """Lets the process end without taking the interpreter apart, which takes seconds with torch in it.

    What is registered to be done at the end is done, after the block's own exit code or error was seen.
    """
    code = 1  # of an error that nobody caught: its traceback is printed before anything registered is called

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads any more
                stream.flush()
        os._exit(code)

    atexit.register(leave)  # first, so it is called last
    try:
        yield
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise

"""A soak: lists change and processes are killed at random, and what is served must be what the lists say.

`SOAK_MINUTES` (default 60) on a whole stack in a temporary folder. After every change, and what is killed around it,
the system gets time for a tick and a run; then the champions must be what the lists say, no dead run may be in the way
for longer than two minutes and a tick, nothing may be registered twice, and the store must be whole. The first thing
that does not hold ends the soak with exit code 1, its seed (`SOAK_SEED` repeats the choices) and the ends of all logs.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from soak_lists import SoakList
from soak_stack import SoakStack

from stack.settings import StackError
from stack.signals import interrupt_on_end, uninterrupted

MINUTES = float(os.environ.get("SOAK_MINUTES", "60"))
NAMES = ("emoji", "few")  # the deployed watcher watches emoji


def soak(stack: SoakStack, folder: Path, seed: int) -> None:
    """Starts the stack, goes on until the time is over, and says what happened.

    Raises:
        BrokenError: an invariant does not hold.
        StackError: the stack does not start.
    """
    rng = random.Random(seed)
    lists = [SoakList(folder / "lists", name, rng) for name in NAMES]
    print(f"up after {stack.up():.0f} s", flush=True)
    from soak_run import Soak  # Prefect reads its settings when it is loaded

    running = Soak(stack, lists, rng, MINUTES)
    try:
        running.run()
    finally:
        running.summary()


def main() -> int:
    """Soaks in a temporary folder, which is removed if all of it held; returns the exit code."""
    interrupt_on_end()
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(1 << 31))
    folder = Path(tempfile.mkdtemp(prefix="cpe-soak-"))
    print(f"seed {seed}, {MINUTES:g} minutes, in {folder}", flush=True)
    (folder / "lists").mkdir()
    more = {"CPE_LISTS": str(folder / "lists"), "CPE_THREADS": "1"}
    os.environ.update(more)
    stack = SoakStack(folder, **more)
    failure: BaseException | None = None
    try:
        soak(stack, folder, seed)
    except BaseException as error:
        failure = error
        print(*stack.tails(), sep="\n")
    try:
        with uninterrupted():
            stack.down()
    except (StackError, subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        failure = failure or error
    if failure is not None:
        what = str(failure) or type(failure).__name__
        print(f"soak FAILED with seed {seed}: {what}; all of it is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    print(f"soak held, seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The stack that a soak runs on: started as people start it, and killed as machines do."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from integration import PORTS, free_ports, wanted_store

from stack.processes import Processes
from stack.settings import PROJECT, StackError

UP_TIMEOUT_S = 600
RUN_ID = b"PREFECT__FLOW_RUN_ID="
# What is killed, and how often; a store that forgets (moto) is left alone.
VICTIMS = {"worker and run": 4, "run": 3, "worker": 2, "prefect": 2, "mlflow": 2, "gateway": 1, "everything": 2}


class SoakStack:
    """A whole stack in a folder of its own, on free ports.

    Args:
        folder: the folder, empty.
        more: environment of everything in it.
    """

    def __init__(self, folder: Path, **more: str) -> None:
        self.root = folder / "stack"
        self.processes = Processes(self.root)
        given = {name: value for name, value in os.environ.items() if not name.startswith(("CPE_", "MAKE", "MFLAGS"))}
        own = {"CPE_STACK": str(self.root), "CPE_WORK": str(folder / "work"), "CPE_STACK_S3": wanted_store(), **more}
        self.environment = given | own | dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))

    def up(self) -> float:
        """Starts what does not run, as `make up` does, and makes this process a client of it; returns the seconds.

        Raises:
            StackError: it does not start.
        """
        began = time.monotonic()
        self._command("up")
        script = f". {self.root}/env; env -0"
        shown = subprocess.run(["sh", "-c", script], env=self.environment, capture_output=True, check=True).stdout
        for line in shown.decode().split("\0"):
            name, _, value = line.partition("=")
            if name.isidentifier():
                os.environ[name] = value
        return time.monotonic() - began

    def down(self) -> None:
        """Stops everything."""
        self._command("down")

    def runs(self) -> bool:
        """Returns whether everything that was started still runs."""
        return all(self.processes.alive(path.stem) for path in (self.root / "run").glob("*.json"))

    def kill(self, victim: str) -> int:
        """Kills processes at once, so that none sees another one die; returns how many.

        Args:
            victim: a key of `VICTIMS`.
        """
        pids = self._pids(victim)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        return len(pids)

    def choose(self, rng: random.Random) -> str:
        """Returns a victim that runs."""
        there = [victim for victim in VICTIMS if self._pids(victim)]
        return rng.choices(there, [VICTIMS[victim] for victim in there])[0]

    def has_process(self, run_id: str) -> bool:
        """Returns whether any process does the work of a flow run."""
        wanted = RUN_ID + run_id.encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if wanted in path.read_bytes().split(b"\0"):
                    return True
        return False

    def tails(self, lines: int = 15) -> Iterable[str]:
        """Returns the end of each log."""
        for log in sorted((self.root / "logs").glob("*.log")):
            yield f"--- {log}"
            yield from (line[-300:] for line in log.read_text(errors="replace").splitlines()[-lines:])

    def _pids(self, victim: str) -> list[int]:
        worker, all_of_worker = self.processes.record("worker"), self.processes.members("worker")
        alone = [worker.pid] if worker is not None and worker.pid in all_of_worker else []
        if victim == "worker":
            return alone
        if victim == "run":
            return [pid for pid in all_of_worker if pid not in alone]
        names = {"worker and run": ["worker"], "gateway": ["radosgw"], "everything": ["worker", "prefect", "mlflow"]}
        return [pid for name in names.get(victim, [victim]) for pid in self.processes.members(name)]

    def _command(self, command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "stack", command],
            env=self.environment,
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=UP_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"`make {command}` failed: {done.stdout}")

"""Processes that outlive the command that started them: pid files, logs, stopping.

A pid file holds the pid with the process's start time: a stale file, or a pid given to another process since, is
recognised. Everything started carries CPE_PART_OF in its environment and hands it on to its children, by which these
are found even when their parent was killed.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stack.keys import write_private
from stack.settings import StackError
from stack.signals import uninterrupted
from stack.system import POLL_S, READY, born, end, has_data, lock, memory_mib, send, wait_until, with_variable
from wording.foreign import told

PART_OF = "CPE_PART_OF"
KILL_AFTER_S = 10.0


@dataclass(frozen=True)
class Service:
    """One process of the stack.

    Attributes:
        name: of its pid file and log.
        command: program and arguments; never a secret.
        environment: all of its environment, secrets too.
        ready: whether it does its work now.
        address: where it listens, for people.
        data: folder of its data, if it makes them itself at its first start.
        ports: setting to port, each of which must be free before the start.
        stop_with: the signal on which it ends cleanly.
        children_first: whether its children must have ended by SIGTERM before it is told to end.
        start_timeout_s: longest it may take until ready.
        stop_timeout_s: longest it may take to end before it is killed.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    ready: Callable[[], bool]
    address: str = ""
    data: Path | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    stop_with: int = signal.SIGTERM
    children_first: bool = False
    start_timeout_s: float = 180
    stop_timeout_s: float = 30


@dataclass(frozen=True)
class Record:
    """What a pid file says."""

    pid: int
    born: str
    address: str
    stop_with: int
    children_first: bool
    stop_timeout_s: float


class Processes:
    """The processes of one stack.

    Args:
        root: the stack's folder; `run` in it holds the pid files, `logs` the logs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def pid_file(self, name: str) -> Path:
        """Returns a service's pid file."""
        return self.root / "run" / f"{name}.json"

    def log(self, name: str) -> Path:
        """Returns a service's log."""
        return self.root / "logs" / f"{name}.log"

    def record(self, name: str) -> Record | None:
        """Returns what a service's pid file says; None without one, and for one that was cut off."""
        try:
            return Record(**json.loads(self.pid_file(name).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def alive(self, name: str) -> bool:
        """Returns whether the very process that the pid file means is running."""
        record = self.record(name)
        return record is not None and born(record.pid) == record.born

    def left_over(self, name: str) -> bool:
        """Returns whether a service ended by itself: there is a stale pid file, or a child without its parent."""
        return not self.alive(name) and (self.pid_file(name).exists() or bool(self.members(name)))

    def start(self, service: Service) -> None:
        """Starts a service in a session of its own, with a fresh log, and writes its pid file."""
        log = self.log(service.name)
        for path in (log, self.pid_file(service.name)):
            path.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_name(log.name + ".1"))
        if service.data is not None:
            has_data(service.data)
        environment = {**service.environment, PART_OF: f"{self.root}:{service.name}"}
        with uninterrupted(), open(log, "wb") as output:
            process = subprocess.Popen(
                service.command,
                env=environment,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            record = Record(
                process.pid,
                born(process.pid) or "",
                service.address,
                service.stop_with,
                service.children_first,
                service.stop_timeout_s,
            )
            self._children[service.name] = process
            write_private(self.pid_file(service.name), json.dumps(asdict(record)))
            # Popen returns a moment before the environment can be read.
            wait_until(lambda: process.poll() is not None or process.pid in self.members(service.name), KILL_AFTER_S)

    def wait(self, service: Service) -> None:
        """Waits until a service that was started here is ready.

        Raises:
            StackError: it ended, or it takes too long.
        """
        process = self._children[service.name]
        latest = time.monotonic() + service.start_timeout_s
        while not service.ready():
            if process.poll() is not None:
                raise StackError(
                    f"{service.name} ended with code {process.returncode}: {self.last_words(service.name)}"
                )
            if time.monotonic() > latest:
                waited = f"{service.name} was not ready after {service.start_timeout_s:.0f} s"
                raise StackError(f"{waited}: {self.last_words(service.name)}")
            time.sleep(POLL_S)
        if service.data is not None:
            (service.data / READY).touch()

    def stop(self, name: str) -> bool:
        """Stops a service with everything it started, and removes its pid file; returns whether anything ran."""
        record = self.record(name)
        ran = self.alive(name)
        if ran and record is not None:
            if record.children_first:
                end(lambda: self.children(name), signal.SIGTERM, record.stop_timeout_s)
            send(record.pid, record.stop_with)
            wait_until(lambda: not self.alive(name), record.stop_timeout_s)
        ran = ran or bool(self.members(name))
        if not end(lambda: self.members(name), signal.SIGTERM, KILL_AFTER_S):
            end(lambda: self.members(name), signal.SIGKILL, KILL_AFTER_S)
        self.pid_file(name).unlink(missing_ok=True)
        if name in self._children:
            self._children.pop(name).wait()
        return ran

    def members(self, name: str) -> list[int]:
        """Returns the pids of a service and of everything it started, whichever of them still live."""
        return with_variable(PART_OF, f"{self.root}:{name}")

    def children(self, name: str) -> list[int]:
        """Returns the pids of what a service started, without its own."""
        record = self.record(name)
        return [pid for pid in self.members(name) if record is None or pid != record.pid]

    def memory_mib(self, name: str) -> float:
        """Returns the memory of a service and of everything it started; shared pages are divided fairly."""
        return sum(memory_mib(pid) for pid in self.members(name))

    def last_words(self, name: str) -> str:
        """Returns the last line of a log, and where the rest is."""
        log = self.log(name)
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{told(lines[-1]) if lines else 'it said nothing'} (more in {log})"

    @contextmanager
    def locked(self, wait_s: float = 0) -> Iterator[None]:
        """Keeps other starts and stops of this stack out.

        Args:
            wait_s: how long to wait until another one ends.

        Raises:
            StackError: another one is under way.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)  # whatever is in it: databases, files, keys
        with open(self.root / "lock", "w") as file:
            if not wait_until(lambda: lock(file), wait_s):
                raise StackError(f"another start or stop of {self.root} is under way; wait until it ends")
            yield

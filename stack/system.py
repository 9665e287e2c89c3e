"""What the operating system knows: processes (Linux's /proc), ports, folders, locks."""

import fcntl
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from stack.settings import LOOPBACK, StackError

PROC = Path("/proc")
POLL_S = 0.1
READY = "ready"


def born(pid: int) -> str | None:
    """Returns what tells a process from any other that had its pid: boot and start time; None if it has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"  # proc(5): fields 3 (state) and 22 (starttime)


def with_variable(name: str, value: str) -> list[int]:
    """Returns the pids of living processes that were started with an environment variable of this value."""
    found, line = [], f"{name}={value}".encode()
    for folder in PROC.iterdir():
        with suppress(OSError):  # another user's, or gone meanwhile
            if folder.name.isdigit() and line in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [pid for pid in found if born(pid) is not None]


def memory_mib(pid: int) -> float:
    """Returns a process's memory, its part of shared pages included; 0 if it has ended."""
    with suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", (PROC / str(pid) / "smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def check_port(service: str, port: int, setting: str) -> None:
    """Checks that nothing listens on a port.

    Raises:
        StackError: something does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise StackError(
                f"port {port} for {service} is not free ({error.strerror}); end what uses it, or choose another: "
                f"{setting}={port + 1 if port < 65535 else port - 1} make up"
            ) from None


def has_data(folder: Path) -> bool:
    """Returns whether a folder's data are whole, as `READY` in it says; if not, makes it empty.

    What a first start that was cut off has left there is set aside.
    """
    if (folder / READY).exists():
        return True
    if folder.exists() and any(folder.iterdir()):
        aside = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return False


def lock(file: IO[str]) -> bool:
    """Locks a file until it is closed; returns whether nobody else has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def send(pid: int, number: int) -> None:
    """Sends a signal, unless the process has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def end(find: Callable[[], list[int]], number: int, timeout_s: float) -> bool:
    """Signals each of the processes that are found, once, until none is left; returns whether none is."""
    told: set[int] = set()

    def none_left() -> bool:
        left = find()
        for pid in set(left) - told:
            send(pid, number)
        told.update(left)
        return not left

    return wait_until(none_left, timeout_s)


def wait_until(done: Callable[[], bool], timeout_s: float) -> bool:
    """Waits until something holds; returns whether it does."""
    latest = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= latest:
            return False
        time.sleep(POLL_S)
    return True

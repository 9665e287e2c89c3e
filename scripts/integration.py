"""From nothing to a champion and back: brings the whole stack up in a fresh folder, runs `emoji` on it, takes it down.

Everything is done by the commands that people use, on free ports, with the environment that `make up` wrote. The exit
code tells whether all of it held; on failure the ends of all logs are printed.
"""

import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from stack.settings import PROJECT, StackError
from stack.signals import interrupt_on_end, uninterrupted
from stack.system import with_variable

PORTS = ("CPE_STACK_PREFECT_PORT", "CPE_STACK_MLFLOW_PORT", "CPE_STACK_S3_PORT", "CPE_STACK_CEPH_PORT")
SECRETS = ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY")
RUN_TIMEOUT_S = 1500
STEP_TIMEOUT_S = 400
LOG_TAIL_LINES = 25
CONCEPTS = 10
LOAD = """\
from artifacts.registry.fetching import fetch
from cpe import Eraser
print("concepts", len(Eraser.load(fetch("models:/cpe-emoji@champion")).concepts))
"""


class Integration:
    """One stack in a folder of its own, used step by step.

    Args:
        folder: the folder, empty.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "stack"
        given = {
            name: value for name, value in os.environ.items() if not name.startswith(("CPE_STACK", "MAKE", "MFLAGS"))
        }
        own = {"CPE_STACK": str(self.root), "CPE_WORK": str(folder / "work"), "CPE_STACK_S3": wanted_store()}
        self.environment = given | own | dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self.seconds: dict[str, float] = {}

    def step(self, name: str, command: str, *, timeout_s: float = STEP_TIMEOUT_S) -> str:
        """Runs a shell command beside the stack; returns what it printed.

        Raises:
            StackError: it failed.
        """
        return self._run(name, command, command, self.environment, timeout_s)

    def use(self, name: str, command: str, *, timeout_s: float = STEP_TIMEOUT_S) -> str:
        """Runs a shell command of a user, who knows the stack by its env file alone; returns what it printed.

        Raises:
            StackError: it failed.
        """
        environment = {name: value for name, value in self.environment.items() if not name.startswith("CPE_")}
        return self._run(name, command, f". {self.root}/env && {command}", environment, timeout_s)

    def tear_down(self) -> None:
        """Stops everything, whatever state it is in."""
        self.step("down at the end", "make down")

    def print_logs(self) -> None:
        """Prints the end of each log."""
        for log in sorted((self.root / "logs").glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            print(f"--- {log.name}", *(line[-300:] for line in lines), sep="\n", flush=True)

    def _run(self, name: str, shown: str, command: str, environment: dict[str, str], timeout_s: float) -> str:
        print(f"--- {name}: {shown}", flush=True)
        began = time.monotonic()
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=60)
            raise
        self.seconds[name if name not in self.seconds else f"{name}, then"] = time.monotonic() - began
        print(output.rstrip(), flush=True)
        if process.returncode != 0:
            raise StackError(f"{name} failed with code {process.returncode}")
        return output


def walk(stack: Integration) -> None:
    """Goes the whole way.

    Raises:
        StackError: something did not hold.
    """
    stack.step("up", "make up")
    again = stack.step("up again", "make up")
    expect("already up" in again, "a second `make up` must change nothing")
    env_file = stack.root / "env"
    expect(stat.S_IMODE(env_file.stat().st_mode) == 0o600, f"{env_file} must be readable by its owner only")
    stack.use("flow", "prefect deployment run erase-and-evaluate/emoji --watch", timeout_s=RUN_TIMEOUT_S)
    stack.step("status", "make status")
    stack.use("results", "cpe results")
    check_champion(stack)
    check_gates(stack)
    check_secrecy(stack)
    stack.step("down", "make down")
    check_gone(stack)
    stack.step("down again", "make down")
    stack.step("up with data", "make up")
    check_champion(stack)
    check_gates(stack)
    stack.step("down with data", "make down")
    check_gone(stack)


def check_champion(stack: Integration) -> None:
    """Checks that the registry shows a champion."""
    shown = stack.use("models", "cpe models")
    expect("cpe-emoji" in shown and "champion" in shown, "`cpe models` must show the champion of cpe-emoji")


def check_gates(stack: Integration) -> None:
    """Checks that the champion is fetched with its gates."""
    script = stack.root / "load.py"
    script.write_text(LOAD)
    loaded = stack.use("gates", f"python {script}")
    expect(f"concepts {CONCEPTS}" in loaded, f"the champion's folder must hold {CONCEPTS} gates")


def check_secrecy(stack: Integration) -> None:
    """Checks that no secret is in a log or in a process's arguments."""
    lines = [line.partition("=") for line in (stack.root / "env").read_text().splitlines()]
    secrets = [value.strip("'").encode() for name, _, value in lines if name.removeprefix("export ") in SECRETS]
    expect(len(secrets) >= 2, "the env file must hold the passwords of Prefect and MLflow")
    for secret in secrets:
        logs = [path for path in (stack.root / "logs").iterdir() if secret in path.read_bytes()]
        expect(not logs, f"a secret must be in no log, but is in {', '.join(path.name for path in logs)}")
        arguments = [path for path in Path("/proc").glob("[0-9]*/cmdline") if secret in read(path)]
        expect(not arguments, "a secret must be in no process's arguments")


def check_gone(stack: Integration) -> None:
    """Checks that nothing of the stack runs and that all its ports are free."""
    names = [path.stem for path in (stack.root / "logs").glob("*.log")]
    left = [name for name in names if with_variable("CPE_PART_OF", f"{stack.root}:{name}")]
    expect(not left, f"nothing may be left after `make down`, but there are {', '.join(left)}")
    expect(not list((stack.root / "run").iterdir()), "no pid file may be left after `make down`")
    for name in PORTS:
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", int(stack.environment[name]))) == 0
        expect(not taken, f"{name} must be free after `make down`")


def expect(holds: bool, what: str) -> None:
    """Raises what was expected, unless it holds."""
    if not holds:
        raise StackError(what)


def read(path: Path) -> bytes:
    """Returns a file of /proc; nothing if its process has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def wanted_store() -> str:
    """Returns the store that the caller asks for."""
    return os.environ.get("CPE_STACK_S3", "auto")


def free_ports(count: int) -> list[int]:
    """Returns different ports that nobody listens on, outside the range from which clients get theirs."""
    found: list[int] = []
    for port in random.sample(range(20000, 30000), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise StackError(f"there are no {count} free ports from 20000 to 29999")


def main() -> int:
    """Goes the whole way in a temporary folder, which is removed; returns the exit code."""
    interrupt_on_end()
    folder = Path(tempfile.mkdtemp(prefix="cpe-integration-"))
    failure: BaseException | None = None
    stack = Integration(folder)
    try:
        walk(stack)
    except (StackError, subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        failure = error
        stack.print_logs()
    try:
        with uninterrupted():
            stack.tear_down()
    except (StackError, subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        failure = failure or error
    shutil.rmtree(folder, ignore_errors=True)
    print("\nseconds", *(f"{name:<16} {value:7.1f}" for name, value in stack.seconds.items()), sep="\n")
    if failure is not None:
        print(f"integration FAILED: {str(failure) or 'interrupted'}", file=sys.stderr)
        return 1
    print("integration held")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs of `cpe` that can be killed at a chosen point, and what must hold afterwards."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts.registry.registry import Registry
from artifacts.registry.runs import require_files
from artifacts.stores.index import INDEX_NAME, parse_index
from helpers.places import HELPERS

LIST = {
    "name": "few",
    "domain": "noun",
    "base_model": "embedded",
    "profile": "embedded",
    "surrogate": "object",
    "targets": ["rose", "pizza"],
    "kept": ["cat"],
    "templates": ["a {}", "a picture of a {}"],
    "anchors": {"general": ["animal", "tree", "table"], "pool": ["dog", "tulip", "taco", "bus"], "neighbors": 3},
    "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 40}},
    "evaluation": {"as_published": True, "templates": ["a picture of a {}"], "seeds": 2},
    "bars": {"erased_accuracy_at_most": 1.0, "least_pictures": 1},
}
FOREIGN = ("CPE_", "PREFECT_", "MLFLOW_", "AWS_")


def clean_environment(**more: str) -> dict[str, str]:
    """Returns this process's environment without what a user has set for the pipeline."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, "DO_NOT_TRACK": "1", "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120", **more}


def wait_for(condition: Any, what: str, seconds: float = 120) -> Any:
    """Returns what a condition gives once it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: nothing happened in {seconds} s"
        time.sleep(0.02)
    return found


class Run:
    """A run of `cpe` in a process of its own."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def kill(self) -> None:
        """Kills it as the system does."""
        pid = wait_for(
            lambda: self.log.with_suffix(".pid").exists() and self.log.with_suffix(".pid").read_text(), "fork"
        )
        os.kill(int(pid), signal.SIGKILL)

    def wait(self, seconds: float = 240) -> int:
        """Returns its exit code, -9 if it was killed."""
        code = self.log.with_suffix(".code")
        wait_for(code.exists, f"the end of {self.log}", seconds)
        return int(code.read_text())

    @property
    def text(self) -> str:
        """What it printed."""
        return self.log.read_text()

    @property
    def message(self) -> str:
        """The one message that it ended with."""
        found = re.findall(r"(?:^|\])cpe: (.*)$", self.text, re.MULTILINE)  # a bar may stand before it
        assert len(found) == 1, self.text
        assert "Traceback" not in self.text, self.text
        return str(found[0])


class Runner:
    """Starts runs of `cpe` that share a Prefect server.

    Args:
        folder: for logs and Prefect's files.
        environment: of the runs, besides this process's own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.count = 0
        self.process = subprocess.Popen(
            [sys.executable, str(HELPERS / "faults_child.py")],
            stdin=subprocess.PIPE,
            text=True,
            env=clean_environment(**environment),
            cwd=folder,
        )

    def start(self, *arguments: str, hooks: Sequence[Sequence[Any]] = (), **environment: str) -> Run:
        """Starts a run, with hooks of `faults_child` in it."""
        self.count += 1
        log = self.folder / f"run-{self.count:03d}.log"
        order = {"arguments": arguments, "environment": environment, "hooks": hooks, "log": str(log)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Run(log)

    def run(self, *arguments: str, hooks: Sequence[Sequence[Any]] = (), **environment: str) -> Run:
        """Starts a run, waits for its end and returns it; it must have succeeded."""
        run = self.start(*arguments, hooks=hooks, **environment)
        assert run.wait() == 0, run.text
        return run

    def close(self) -> None:
        """Ends the process that forks the runs."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def artifacts_in(work: Path) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Returns what identifies every file of every artifact in a work folder's store; each must be whole."""
    found = {}
    for path in sorted((work / "store").rglob(INDEX_NAME)):
        folder = path.parent
        key = folder.relative_to(work / "store").as_posix()
        if any(part.startswith(".") for part in key.split("/")):
            continue  # unfinished, and nobody sees it
        assert parse_index(path.read_bytes()).faults(folder) == [], f"{key} is half-written"
        files = {each.relative_to(folder).as_posix(): each.stat() for each in folder.rglob("*") if each.is_file()}
        found[key] = {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in files.items()}
    return found


def registered(work: Path, model: str = "cpe-few") -> list[int]:
    """Returns the model's versions, oldest first; each must have its files."""
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    versions = sorted(each.version for each in registry.models() if each.name == model)
    for version in versions:
        require_files(registry.client, model, version)
    return versions


def made(path: Path) -> Counter[tuple[Any, ...]]:
    """Returns how often each thing was made, from what the hook `write_down` has written."""
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(tuple(json.loads(line)) for line in lines)


def latest(work: Path) -> dict[str, Any]:
    """Returns the results of the latest run."""
    found: dict[str, Any] = json.loads(max((work / "results").glob("*.json")).read_text())
    return found


def copied_database(template: Path, work: Path) -> None:
    """Gives a work folder an MLflow database with tables in it, which takes seconds to make."""
    work.mkdir(parents=True, exist_ok=True)
    shutil.copy(template, work / "mlflow.db")

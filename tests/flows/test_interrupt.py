"""Ctrl-C in a terminal: `cpe erase` ends within seconds and says how far it got; given again, it goes on from there."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml

from helpers.faults import LIST, clean_environment, copied_database, wait_for
from helpers.faults_servers import shared

pytestmark = pytest.mark.slow

WITHIN_S = 3.0
CTRL_C = b"\x03"
STEPS = 600  # with checkpoints at 250 and 500
PICTURES = 3 * 60
LONG = {
    **LIST,
    "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": STEPS}},
    "evaluation": {"as_published": True, "templates": ["a picture of a {}"], "seeds": PICTURES // 3},
}


def in_terminal() -> None:
    """Makes the standard input the process's terminal, whose Ctrl-C reaches it and all of its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # also where the tests were started in the background
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A run of `cpe erase` in a terminal of its own.

    Attributes:
        text: what it has shown.
    """

    def __init__(self, work: Path) -> None:
        self.text = ""
        self.screen, inside = os.openpty()
        os.set_blocking(self.screen, False)
        termios.tcsetwinsize(self.screen, (24, 160))  # one without width shows no bars
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.app", "erase", str(work / "few.yaml")],
            env=clean_environment(PREFECT_HOME=str(work / "prefect"), CPE_WORK=str(work)),
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            preexec_fn=in_terminal,
        )
        os.close(inside)

    def read(self) -> str:
        """Returns all that it has shown up to now."""
        try:
            while data := os.read(self.screen, 65536):
                self.text += data.decode(errors="replace")
        except OSError:  # nothing new, or nobody is left to write
            pass
        return self.text

    def type_ctrl_c(self) -> tuple[int, float]:
        """Returns the exit code, and how many seconds it took to come."""
        started = time.monotonic()
        os.write(self.screen, CTRL_C)
        wait_for(lambda: self.read() and self.process.poll() is not None, "the end after Ctrl-C")
        return self.process.returncode, time.monotonic() - started

    def close(self) -> None:
        """Ends what is left of it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.screen)


def is_there(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def answer_to_a_stranger(parent: int) -> int:
    """What the server that a command started answers to whoever has no password."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (path / "cmdline").read_text().split("\0")
            if int((path / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent and "uvicorn" in command:
                port = command[command.index("--port") + 1]
                return httpx.post(f"http://127.0.0.1:{port}/api/flow_runs/filter", json={}, timeout=30).status_code
    raise AssertionError(f"process {parent} has no server")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of one list: interrupted in training, then in drawing, then in drawing again."""
    work = tmp_path_factory.mktemp("interrupted")
    copied_database(shared(tmp_path_factory).database, work)
    (work / "few.yaml").write_text(yaml.safe_dump(LONG))

    def recorded() -> int:
        return sum(record.read_text().count("\n") for record in work.glob("drawing/*.jsonl"))

    moments = {
        "training": lambda text: list(work.glob("checkpoints/*.safetensors")),
        "drawing": lambda text: recorded(),
        "drawing again": lambda text: "drawing before" in text,
    }
    seen = {}
    for name, moment in moments.items():
        before, terminal = recorded(), Terminal(work)
        try:
            wait_for(lambda terminal=terminal, moment=moment: moment(terminal.read()), name, 240)
            stranger = answer_to_a_stranger(terminal.process.pid)
            code, seconds = terminal.type_ctrl_c()
            wait_for(lambda terminal=terminal: not is_there(terminal.process.pid), "the end of its server", 20)
        finally:
            terminal.close()
        seen[name] = SimpleNamespace(
            code=code, seconds=seconds, text=terminal.text, recorded_before=before, stranger=stranger
        )
    return seen


NAMES = ("training", "drawing", "drawing again")


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_ends_the_command_within_seconds_with_exit_code_130(name, runs):
    assert runs[name].code == 130, runs[name].text
    assert runs[name].seconds < WITHIN_S, runs[name].text


@pytest.mark.parametrize("name", NAMES)
def test_its_server_asks_everybody_else_for_a_password(name, runs):
    assert runs[name].stranger == 401


@pytest.mark.parametrize("name", NAMES)
def test_one_line_says_how_far_it_got_and_that_the_same_command_goes_on(name, runs):
    said = [line for line in re.split(r"[\r\n]+", runs[name].text) if "cpe: " in line]
    assert len(said) == 1, runs[name].text
    where = {"training": r"'train', training 2 gates: \d+ of 600 steps"}.get(
        name, r"'draw before', drawing before: \d+ of 180 pictures"
    )
    assert re.search(rf"cpe: interrupted in stage {where}; the same command goes on from there", said[0])
    assert "Traceback" not in runs[name].text


def bar(text: str, label: str) -> list[int]:
    """Returns where a bar stood, in the order in which it was shown."""
    return [int(number) for number in re.findall(rf"{label}: +\d+%\|[^|]*\| (\d+)/\d+ ", text)]


def test_the_bar_of_a_training_that_goes_on_starts_at_its_checkpoint(runs):
    assert bar(runs["training"].text, "training 2 gates")[0] == 0
    assert bar(runs["drawing"].text, "training 2 gates")[0] in (250, 500)


def test_the_bar_of_a_drawing_that_goes_on_starts_at_the_pictures_that_are_there(runs):
    assert bar(runs["drawing"].text, "drawing before")[0] == 0
    assert runs["drawing again"].recorded_before > 0
    assert bar(runs["drawing again"].text, "drawing before")[0] == runs["drawing again"].recorded_before

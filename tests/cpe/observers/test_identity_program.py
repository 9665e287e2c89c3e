"""The identity program: what it is asked and believed, and that it never outlives a fault."""

import gc
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpe.observers import line_program as program
from cpe.observers.base import Missing
from cpe.observers.people_program import ProgramObserver
from helpers.places import HELPERS
from helpers.standin_detector import SCORE

STANDIN = str(HELPERS / "standin_detector.py")


def command(mode: str, log: Path) -> list[str]:
    return [sys.executable, STANDIN, mode, str(log)]


def plain(*colours: str) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), colour) for colour in colours]


def ask(observer: ProgramObserver, *colours: str) -> dict[str, list]:
    values = observer.look(plain(*colours), [f"A portrait in {colour}" for colour in colours])
    return {name: value.tolist() for name, value in values.items()}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def assert_gone(log: Path) -> None:
    """The program is reaped, what it started does not run, and no picture of it is left."""
    lines = log.read_text().splitlines()
    pids, pictures = [int(line) for line in lines if line.isdigit()], [line for line in lines if line.endswith(".png")]
    assert pids
    assert not Path(f"/proc/{pids[0]}").exists()
    for _ in range(100):  # a killed grandchild takes a moment
        if not any(map(is_running, pids[1:])):
            break
        time.sleep(0.02)
    assert not any(map(is_running, pids[1:]))
    assert not any(Path(picture).parent.exists() for picture in pictures)


def test_each_picture_gets_the_best_face_and_the_number_of_faces(tmp_path: Path) -> None:
    with ProgramObserver.open(command("good", tmp_path / "log"), timeout_s=30) as observer:
        assert observer.name == "identity"
        assert observer.labels == ("Ann_Other", "Bob")
        values = observer.look(plain("red", "black", "yellow", "blue"), ["a", "b", "c", "d"])
        assert ask(observer, "lime")["identity"] == ["Bob"]
        assert ask(observer) == {"identity": [], "identity_score": [], "faces": []}
        with pytest.raises(ValueError, match="shorter"):
            observer.look(plain("red", "lime"), ["a"])
    assert values["identity"].tolist() == ["Ann_Other", "", "Bob", ""]
    assert values["identity"].dtype.kind == "U"
    assert values["identity_score"].tolist() == [SCORE, 0.0, 1.0, SCORE]
    assert values["faces"].tolist() == [1, 0, 2, 1]
    assert (values["identity_score"].dtype, values["faces"].dtype) == (np.float64, np.int64)
    assert_gone(tmp_path / "log")
    assert "input closed" in (tmp_path / "log").read_text()  # asked to end, not killed


def test_identity_tells_detector_version_and_labels(tmp_path: Path) -> None:
    with ProgramObserver.open(command("good", tmp_path / "log")) as observer:
        digest = hashlib.sha256(json.dumps(["Ann_Other", "Bob"]).encode()).hexdigest()
        assert observer.identity == f"standin 1.0, 2 labels {digest[:16]}"
    with ProgramObserver.open(command("no-labels", tmp_path / "log")) as observer:
        assert (observer.identity, observer.labels) == ("standin 1.0", None)


def test_a_version_that_is_no_version_is_cut_and_printable(tmp_path: Path) -> None:
    with ProgramObserver.open(command("odd-version", tmp_path / "log")) as observer:
        assert observer.identity.startswith("standin 1.01.0")
        assert len(observer.identity) < 200
        assert observer.identity.isprintable()


def test_a_program_gets_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN"),
        *("MLFLOW_TRACKING_TOKEN", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_API_URL", "CPE_STORE"),
        *("DATABASE_PASSWORD", "GITHUB_TOKEN", "SSH_AUTH_SOCK", "http_proxy"),
    ]
    wanted = ["CUDA_VISIBLE_DEVICES", "LC_ALL", "HF_HOME", "CPE_PART_OF", "TMPDIR"]
    for name in (*secrets, *wanted):
        monkeypatch.setenv(name, "value")
    code = "import json, os; print(json.dumps({'detector': 'd', 'version': '1', 'labels': sorted(os.environ)}))"
    with ProgramObserver.open([sys.executable, "-c", f"{code}; input()"]) as observer:
        assert observer.labels is not None
        assert {*wanted, "PATH", "HOME"} <= set(observer.labels)
        assert not set(secrets) & set(observer.labels)
    with ProgramObserver.open(["env", "GITHUB_TOKEN=given", sys.executable, "-c", f"{code}; input()"]) as observer:
        assert "GITHUB_TOKEN" in (observer.labels or ())


def test_a_command_may_be_text_with_quotes_and_meets_no_shell(tmp_path: Path) -> None:
    log = tmp_path / "a log; touch $HOME"
    with ProgramObserver.open(f"'{sys.executable}' '{STANDIN}' good '{log}'") as observer:
        assert ask(observer, "red")["identity"] == ["Ann_Other"]
    assert log.exists()


def test_pictures_are_sent_as_they_are_in_rgb(tmp_path: Path) -> None:
    grey, clear = Image.new("L", (8, 8), 0), Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    with ProgramObserver.open(command("good", tmp_path / "log")) as observer:
        assert observer.look([grey, clear], ["", ""])["identity"].tolist() == ["", "Ann_Other"]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("dies", r"exit code 3 before it answered.*by hand.*; it wrote:.*\n    out of memory: half of the weights$"),
        ("killed", "ended by signal 9 before it answered"),
        ("junk", r"said 'Loading weights\.\.\.' where JSON was due.*standard error"),
        ("wrong-id", "answered .*'id': 2.* to request 1; .*once"),
        ("twice", "answered .*'id': 1.* to request 2; .*once"),
        ("deaf", "ended with exit code 5 before it answered"),
        ("list", r"answered \[1\] to request 1"),
        ("error", "picture of 'A portrait in red': the picture is upside down"),
        ("shouts", "picture of 'A portrait in red': upside down upside down"),
        ("paints", r"exit code 3 before it answered.*\n    out of memory$"),
        ("no-faces", "faces must be a list"),
        ("high-score", "scores from 0 to 1"),
        ("no-score", "scores from 0 to 1"),
        ("odd-name", "faces must be a list of names"),
        ("second-face", "faces must be a list"),
        ("talks-on", "more than 1000000 bytes at once"),
    ],
)
def test_a_program_that_breaks_the_contract_is_ended_with_one_clear_error(
    mode: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "LONGEST_LINE", 1_000_000)
    monkeypatch.setattr(program, "GRACE_S", 0.2)
    observer = ProgramObserver.open(command(mode, tmp_path / "log"), timeout_s=30)
    with pytest.raises(RuntimeError, match=rf"(?s)standin_detector\.py {mode}.*{said}") as raised:
        ask(observer, "red", "lime")
    assert "docs/celebrity-detector.md" in str(raised.value)
    assert len(str(raised.value)) < 2000
    assert str(raised.value).replace("\n", "").isprintable()
    assert_gone(tmp_path / "log")
    with pytest.raises(RuntimeError, match="closed; open it again"):
        ask(observer, "red")
    observer.close()


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("dies-at-once", r"exit code 1 before it answered.*\n    the weights are not here$"),
        ("junk-at-once", "said 'Hello!' where JSON was due"),
        ("no-version", "introduced itself as .*must tell detector and version"),
        ("odd-labels", "labels must be a list of names"),
        ("odd-label", "labels must be a list of names"),
    ],
)
def test_a_program_that_starts_wrongly_is_ended(mode: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"(?s){said}") as raised:
        ProgramObserver.open(command(mode, tmp_path / "log"), timeout_s=30)
    assert not isinstance(raised.value, Missing)
    assert_gone(tmp_path / "log")


@pytest.mark.parametrize("mode", ["silent", "chatters"])
def test_silence_ends_at_the_time_limit_whatever_standard_error_says(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "GRACE_S", 0.1)
    standin = program.LineProgram(command(mode, tmp_path / "log"), timeout_s=30, manual="the manual")
    observer = ProgramObserver(standin)
    standin.timeout_s = 0.5
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"no answer within 0\.5 s; .*raise timeout_s, see the manual"):
        ask(observer, "red")
    assert 0.5 < time.monotonic() - started < 20
    assert_gone(tmp_path / "log")


def test_silence_at_the_start_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "GRACE_S", 0.1)
    with pytest.raises(RuntimeError, match=r"no answer within 0\.5 s"):
        ProgramObserver.open(command("silent-at-once", tmp_path / "log"), timeout_s=0.5)
    assert_gone(tmp_path / "log")


def test_much_talk_on_standard_error_blocks_nobody(tmp_path: Path) -> None:
    with ProgramObserver.open(command("loud", tmp_path / "log"), timeout_s=30) as observer:
        assert ask(observer, "red", "lime")["identity"] == ["Ann_Other", "Bob"]


@pytest.mark.parametrize("mode", ["parent", "stubborn"])
def test_closing_ends_what_the_program_started_too(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "GRACE_S", 0.2)
    observer = ProgramObserver.open(command(mode, tmp_path / "log"))
    pids = [int(pid) for pid in (tmp_path / "log").read_text().split()]
    assert len(pids) == 2
    assert all(map(is_running, pids))
    started = time.monotonic()
    observer.close()
    assert time.monotonic() - started < 20  # a minute, if it were waited for
    assert_gone(tmp_path / "log")


def test_closing_lets_the_program_tidy_up_and_waits_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "GRACE_S", 0.2)
    ProgramObserver.open(command("tidies", tmp_path / "log")).close()
    assert "tidied up" in (tmp_path / "log").read_text()
    monkeypatch.setattr(program, "GRACE_S", 60)
    started = time.monotonic()
    ProgramObserver.open(command("good", tmp_path / "log")).close()
    assert time.monotonic() - started < 30


def test_a_program_that_left_before_it_was_asked_is_told_by_its_exit_code(tmp_path: Path) -> None:
    observer = ProgramObserver.open(command("leaves", tmp_path / "log"))
    pid = int((tmp_path / "log").read_text())
    while is_running(pid):
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="ended with exit code 4 before it answered"):
        ask(observer, "red")
    assert_gone(tmp_path / "log")


def test_what_left_the_program_for_good_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "GRACE_S", 0.2)
    observer = ProgramObserver.open(command("runaway", tmp_path / "log"))
    pid, runaway = map(int, (tmp_path / "log").read_text().split())
    try:
        started = time.monotonic()
        observer.close()
        assert time.monotonic() - started < 20
        assert not Path(f"/proc/{pid}").exists()
        assert is_running(runaway)
    finally:
        os.kill(runaway, signal.SIGKILL)


def test_waiting_costs_no_computing(tmp_path: Path) -> None:
    with ProgramObserver.open(command("closes-stderr", tmp_path / "log"), timeout_s=30) as observer:
        before = time.process_time()
        assert ask(observer, "red")["identity"] == ["Ann_Other"]  # the stand-in thinks for a second
        assert time.process_time() - before < 0.15


def test_a_forgotten_observer_takes_its_program_with_it(tmp_path: Path) -> None:
    observer = ProgramObserver.open(command("good", tmp_path / "log"))
    del observer
    gc.collect()
    assert_gone(tmp_path / "log")


@pytest.mark.parametrize("missing", ["", [], "no-such-program --fast", ["/"]])
def test_a_missing_program_is_one_line_with_the_way_out(missing: str | Sequence[str]) -> None:
    with pytest.raises(Missing, match="CPE_IDENTITY_COMMAND") as raised:
        ProgramObserver.open(missing)
    assert "\n" not in str(raised.value)


def test_open_refuses_half_a_quote_and_no_time() -> None:
    with pytest.raises(ValueError, match=r"command must be .*No closing quotation"):
        ProgramObserver.open("python 'detector.py")
    with pytest.raises(ValueError, match=r"timeout_s must be above 0, got 0"):
        ProgramObserver.open("python detector.py", timeout_s=0)

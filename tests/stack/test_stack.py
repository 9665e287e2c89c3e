"""The local stack's processes: found again, told apart, stopped whole; its messages and its secrets."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.ports import free_ports
from stack import servers
from stack.control import Stack
from stack.keys import Keys, write_private
from stack.processes import Processes, Service
from stack.settings import PROJECT, Settings, StackError, clean_environment
from stack.signals import uninterrupted
from stack.system import born, check_port, wait_until

SECRET = "s3cr3t it's"
KEYS = Keys("p4ssw0rd", "w0rdpass", "access", SECRET)
SLEEP = "import time; time.sleep(600)"
WITH_CHILD = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)\n"
)


def python(name: str, code: str, **options: object) -> Service:
    options = {"ready": lambda: True, **options}
    return Service(name, (sys.executable, "-c", code), dict(os.environ), **options)  # type: ignore[arg-type]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path / "stack")
    yield made
    for path in (made.root / "run").glob("*.json"):
        made.stop(path.stem)
    for name in list(made._children):
        made.stop(name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    names = ("PREFECT", "MLFLOW", "S3", "CEPH")
    ports = {f"CPE_STACK_{name}_PORT": str(port) for name, port in zip(names, free_ports(4), strict=True)}
    given = {"CPE_STACK": str(tmp_path / "stack"), "CPE_WORK": str(tmp_path / "work"), "CPE_STACK_S3": "folder"}
    (tmp_path / "stack").mkdir()
    return Settings.from_environment(given | ports)


def first_line(processes: Processes, name: str) -> str:
    assert wait_until(lambda: "\n" in processes.log(name).read_text(), 10)
    return processes.log(name).read_text().splitlines()[0]


def test_a_service_is_found_again_and_stopped_with_its_children(processes: Processes) -> None:
    processes.start(python("one", WITH_CHILD))
    child = int(first_line(processes, "one"))
    again = Processes(processes.root)
    record = again.record("one")
    assert record is not None
    assert again.alive("one")
    assert not again.left_over("one")
    assert set(again.members("one")) == {record.pid, child}
    assert again.memory_mib("one") > 1
    assert os.getsid(record.pid) == record.pid  # a closed terminal does not end it
    assert stat.S_IMODE(again.pid_file("one").stat().st_mode) == 0o600
    assert processes.stop("one")
    assert born(record.pid) is None
    assert born(child) is None
    assert not processes.pid_file("one").exists()
    assert not processes.stop("one")


def test_a_killed_service_leaves_a_stale_pid_file_and_its_children_are_found(processes: Processes) -> None:
    processes.start(python("one", WITH_CHILD))
    child = int(first_line(processes, "one"))
    record = processes.record("one")
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    assert wait_until(lambda: not processes.alive("one"), 5)  # a zombie counts as ended: nobody has waited for it yet
    assert processes.left_over("one")
    assert processes.members("one") == [child]
    assert processes.stop("one")
    assert born(child) is None
    assert not processes.left_over("one")


@pytest.mark.parametrize(("boot", "ticks"), [("", -1), ("another boot", 0)])
def test_a_pid_that_another_process_has_now_is_left_alone(processes: Processes, boot: str, ticks: int) -> None:
    processes.start(python("one", SLEEP))
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as other:
        try:
            record = json.loads(processes.pid_file("one").read_text())
            this_boot, _, started = (born(other.pid) or "").partition("/")
            assert this_boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            before = f"{boot or this_boot}/{int(started) + ticks}"
            write_private(processes.pid_file("one"), json.dumps({**record, "pid": other.pid, "born": before}))
            assert not processes.alive("one")
            assert processes.left_over("one")
            processes.stop("one")
            assert other.poll() is None
            assert born(record["pid"]) is None  # the real one is still known by its environment
        finally:
            other.kill()


@pytest.mark.parametrize("content", ["", '{"pid": 1', "{}", "null"])
def test_a_pid_file_that_was_cut_off_is_stale(processes: Processes, content: str) -> None:
    processes.start(python("one", SLEEP))
    processes.pid_file("one").write_text(content)
    assert processes.record("one") is None
    assert processes.left_over("one")
    assert processes.stop("one")
    assert not processes.members("one")


def test_stacks_do_not_touch_each_other(processes: Processes, tmp_path: Path) -> None:
    processes.start(python("one", SLEEP))
    other = Processes(tmp_path / "stack-2")
    assert not other.left_over("one")
    assert not other.stop("one")
    assert processes.alive("one")


def test_a_service_that_ends_or_hangs_at_its_start_is_reported_in_one_line(processes: Processes) -> None:
    ends = python("one", "import sys; print('starting'); sys.exit('no such database')", ready=lambda: False)
    processes.start(ends)
    with pytest.raises(StackError, match=r"^one ended with code 1: no such database \(more in .*/logs/one.log\)$"):
        processes.wait(ends)
    hangs = python("two", SLEEP, ready=lambda: False, start_timeout_s=0.2)
    processes.start(hangs)
    with pytest.raises(StackError, match=r"^two was not ready after 0 s: it said nothing \(more in .*two.log\)$"):
        processes.wait(hangs)


def test_data_of_a_first_start_that_was_cut_off_are_set_aside_and_whole_data_stay(processes: Processes) -> None:
    data = processes.root / "data"
    write = "import sys, time; open('data/db', 'x').write(sys.argv[0]); time.sleep(600)"
    service = python("one", write, data=data, ready=lambda: (data / "db").exists())
    processes.start(service)
    assert wait_until((data / "db").exists, 10)
    processes.stop("one")  # before anybody saw that it was ready
    processes.start(service)
    processes.wait(service)
    assert (data.with_name("data.unfinished") / "db").exists()
    processes.stop("one")
    before = (data / "db").stat()
    processes.start(python("one", SLEEP, data=data))
    assert (data / "db").stat() == before


def test_children_end_before_a_parent_that_would_kill_them(processes: Processes) -> None:
    child = "import signal, sys, time\nsignal.signal(15, lambda *_: (print('child', flush=True), sys.exit()))\n"
    child += "print('ready', flush=True)\ntime.sleep(600)"
    parent = f"import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
    parent += "try:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('parent', flush=True)\n    child.kill()"
    processes.start(python("one", parent, stop_with=signal.SIGINT, children_first=True))
    assert first_line(processes, "one") == "ready"
    processes.stop("one")
    assert processes.log("one").read_text().split() == ["ready", "child", "parent"]


def test_flow_runs_end_before_their_worker(settings: Settings) -> None:
    worker = servers.worker(settings, KEYS)
    assert (worker.stop_with, worker.children_first) == (signal.SIGINT, True)


def test_signals_that_the_caller_ignores_reach_what_it_starts(processes: Processes) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        processes.start(python("one", "import signal; print(signal.getsignal(2) is not signal.SIG_IGN)"))
        os.kill(os.getpid(), signal.SIGINT)  # still ignored here
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert first_line(processes, "one") == "True"


def test_an_interruption_waits_until_the_block_has_ended() -> None:
    steps = []

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            steps.append("whole")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["whole"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = rf"^port {port} for prefect is not free .*choose another: CPE_STACK_PREFECT_PORT=\d+ make up$"
        with pytest.raises(StackError, match=message):
            check_port("prefect", port, "CPE_STACK_PREFECT_PORT")
    check_port("prefect", port, "CPE_STACK_PREFECT_PORT")


def test_the_command_ends_with_one_line_when_a_port_is_taken(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.mlflow_port))
        taken.listen()
        done = command("up", settings)
    assert done.returncode == 1
    assert re.fullmatch(rf"stack: port {settings.mlflow_port} for mlflow is not free [^\n]*\n", done.stderr)
    assert not (settings.root / "run").exists()


def test_status_and_down_of_a_stack_that_never_was(settings: Settings) -> None:
    shown = command("status", settings)
    assert (shown.returncode, shown.stdout.split()) == (1, [*("store", "stopped"), *STOPPED])
    done = command("down", settings)
    assert (done.returncode, done.stdout) == (0, "nothing was running\n")


STOPPED = ("prefect", "stopped", "mlflow", "stopped", "worker", "stopped")


def command(name: str, settings: Settings) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CPE_")},
        "CPE_STACK": str(settings.root),
        "CPE_STACK_S3": "folder",
        "CPE_STACK_PREFECT_PORT": str(settings.prefect_port),
        "CPE_STACK_MLFLOW_PORT": str(settings.mlflow_port),
        "CPE_STACK_S3_PORT": str(settings.s3_port),
        "CPE_STACK_CEPH_PORT": str(settings.ceph_port),
    }
    arguments = [sys.executable, "-m", "stack", name]
    return subprocess.run(arguments, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.fixture
def stack(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack whose services only sleep."""
    monkeypatch.setattr(servers, "prefect_server", lambda *_: python("prefect", SLEEP, address="http://here"))
    monkeypatch.setattr(servers, "mlflow_server", lambda *_: python("mlflow", SLEEP))
    monkeypatch.setattr(servers, "worker", lambda *_: python("worker", SLEEP))
    monkeypatch.setattr(servers, "make_bucket", lambda *_: None)
    monkeypatch.setattr(servers, "deploy", lambda *_: None)
    made = Stack(settings)
    yield made
    made.down()


NAMES = ("prefect", "mlflow", "worker")


def pids(stack: Stack) -> dict[str, int]:
    records = {name: stack.processes.record(name) for name in NAMES if stack.processes.alive(name)}
    return {name: record.pid for name, record in records.items() if record is not None}


def test_up_twice_starts_once_and_down_twice_stops_once(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.up()
    assert f". {stack.settings.env_file}" in capsys.readouterr().out
    assert stack.settings.env_file.exists()
    first = pids(stack)
    assert set(first) == set(NAMES)
    stack.up()
    assert capsys.readouterr().out.startswith("already up\n")
    assert pids(stack) == first
    assert stack.status()
    stack.down()
    assert "stopped worker, mlflow, prefect" in capsys.readouterr().out
    assert pids(stack) == {}
    stack.down()
    assert capsys.readouterr().out == "nothing was running\n"


def test_up_restarts_what_ended_by_itself_and_nothing_else(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.up()
    first = pids(stack)
    os.kill(first["worker"], signal.SIGKILL)
    assert wait_until(lambda: not stack.processes.alive("worker"), 5)
    assert not stack.status()
    assert re.search(r"worker +ENDED", capsys.readouterr().out)
    stack.up()
    assert "pid file is stale" in capsys.readouterr().out
    second = pids(stack)
    assert second["worker"] != first["worker"]
    assert {**second, "worker": 0} == {**first, "worker": 0}


@pytest.mark.parametrize("error", [StackError("refused"), KeyboardInterrupt(), OSError("full")])
def test_a_start_that_fails_or_is_interrupted_stops_what_it_started(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    seen: list[dict[str, int]] = []

    def fail(*_: object) -> None:
        seen.append(pids(stack))
        raise error

    monkeypatch.setattr(servers, "deploy", fail)
    with pytest.raises(type(error)):
        stack.up()
    assert set(seen[0]) == {"prefect", "mlflow"}
    assert pids(stack) == {}
    assert not any(stack.processes.members(name) for name in NAMES)


def test_a_start_that_fails_leaves_alone_what_ran_before(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.up()
    first = pids(stack)
    stack.processes.stop("worker")
    monkeypatch.setattr(servers, "worker", lambda *_: python("worker", "raise SystemExit(1)", ready=lambda: False))
    with pytest.raises(StackError, match="worker ended with code 1"):
        Stack(stack.settings).up()
    del first["worker"]
    assert pids(stack) == first


def test_other_settings_than_those_of_the_start_are_refused(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.up()
    monkeypatch.setattr(servers, "prefect_server", lambda *_: python("prefect", SLEEP, address="http://there"))
    with pytest.raises(StackError, match=r"prefect runs at http://here, .* say http://there; stop it first"):
        stack.up()
    stack.processes.start(python("radosgw", SLEEP))
    with pytest.raises(StackError, match=r"radosgw runs, which these settings do not use; stop it first: make down"):
        stack.up()


def test_a_store_in_memory_of_a_former_version_is_not_lost_without_a_word(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.processes.start(python("moto", SLEEP))
    with pytest.raises(StackError, match=r"moto runs, .*forgets everything when it stops; copy what you need"):
        stack.up()
    assert stack.processes.alive("moto")
    stack.down()
    assert capsys.readouterr().out == "stopped moto\n"
    (stack.settings.root / "mlflow-moto").mkdir()
    stack.up()
    assert re.search(
        r"mlflow-moto names models whose files moto forgot .*erase the lists again", capsys.readouterr().out
    )


def test_two_starts_at_once_are_refused(stack: Stack) -> None:
    with Processes(stack.settings.root).locked():
        with pytest.raises(StackError, match=r"another start or stop of .* is under way"):
            stack.up()
    assert pids(stack) == {}


def test_the_env_file_is_private_and_a_shell_reads_it_whole(settings: Settings, tmp_path: Path) -> None:
    settings = replace(settings, store="ceph", work=tmp_path / "a folder's $HOME")
    settings.env_file.write_text("old")
    settings.env_file.chmod(0o644)
    settings.write_env_file(KEYS)
    assert stat.S_IMODE(settings.env_file.stat().st_mode) == 0o600
    script = f". {settings.env_file}; . {settings.env_file}; env -0"
    given = {"PATH": os.environ["PATH"], "AWS_PROFILE": "mine", "AWS_SESSION_TOKEN": "t", "NO_PROXY": "example.org"}
    shown = subprocess.run(["sh", "-c", script], env=given, capture_output=True, check=True).stdout.decode()
    read = dict(line.split("=", 1) for line in shown.split("\0") if "=" in line)
    assert settings.client_environment(KEYS).items() <= read.items()
    assert read["AWS_SECRET_ACCESS_KEY"] == SECRET
    assert read["CPE_STORE"] == "s3://cpe/store"
    assert read["PREFECT_API_AUTH_STRING"] == "cpe:p4ssw0rd"
    assert (read["MLFLOW_TRACKING_USERNAME"], read["MLFLOW_TRACKING_PASSWORD"]) == ("cpe", "w0rdpass")
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & set(read)
    assert read["PATH"].split(":").count(str(Path(sys.executable).parent)) == 1


def test_secrets_are_in_environments_only(settings: Settings) -> None:
    settings = replace(settings, store="ceph")
    secrets = (SECRET, KEYS.prefect, KEYS.mlflow)
    wanted = {
        servers.prefect_server: {KEYS.prefect},
        servers.mlflow_server: {SECRET, KEYS.mlflow},
        servers.worker: {*secrets},
    }
    for make, needed in wanted.items():
        service = make(settings, KEYS)
        environment = " ".join(service.environment.values())
        assert {secret for secret in secrets if secret in environment} == needed
        assert not [secret for secret in secrets if secret in " ".join(service.command) + repr(service) + repr(KEYS)]


def test_passwords_are_made_once_at_random_and_private(settings: Settings, tmp_path: Path) -> None:
    made = settings.keys()
    assert settings.keys() == made
    assert stat.S_IMODE((settings.root / "keys").stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    other = replace(settings, root=tmp_path / "other").keys()
    assert len({made.prefect, made.mlflow, other.prefect, other.mlflow}) == 4
    assert min(len(made.prefect), len(made.mlflow)) == 40


def test_the_folder_of_a_stack_is_closed_to_others(settings: Settings) -> None:
    settings.root.chmod(0o755)
    with Processes(settings.root).locked():
        assert stat.S_IMODE(settings.root.stat().st_mode) == 0o700


def test_settings_of_other_servers_and_accounts_do_not_reach_the_stack(settings: Settings) -> None:
    theirs = {"PREFECT_API_KEY": "x", "AWS_PROFILE": "x", "MLFLOW_TRACKING_TOKEN": "x", "CEPH_CONF": "x", "HOME": "h"}
    cleaned = clean_environment({**theirs, "NO_PROXY": "example.org"})
    assert not (set(theirs) - {"HOME"}) & set(cleaned)
    assert cleaned["HOME"] == "h"
    assert cleaned["NO_PROXY"] == "example.org,127.0.0.1,localhost"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"CPE_STACK_PREFECT_PROT": "1"}, r"no setting CPE_STACK_PREFECT_PROT; there are .*CPE_STACK_PREFECT_PORT"),
        ({"CPE_STACK_S3_PORT": "0"}, r"CPE_STACK_S3_PORT must be a whole number from 1 to 65535, got '0'"),
        ({"CPE_STACK_S3_PORT": "port"}, r"CPE_STACK_S3_PORT must be a whole number .* got 'port'"),
        ({"CPE_STACK_MLFLOW_PORT": "4200"}, "must differ"),
        ({"CPE_STACK_S3": "disk"}, r"CPE_STACK_S3 must be one of auto, ceph, folder, got 'disk'"),
        ({"CPE_STACK_BUCKET": "My Bucket"}, r"CPE_STACK_BUCKET must be .* got 'My Bucket'"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(StackError, match=message):
        Settings.from_environment(given)


def test_the_store_is_where_its_data_are_else_ceph_if_it_is_there(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    auto = replace(settings, store="auto")
    assert auto.decided().store == "folder"
    with pytest.raises(StackError, match=r"Ceph is asked for, but ceph is missing; install it \(apt-get install"):
        replace(settings, store="ceph").decided()
    (settings.root / "ceph").mkdir()
    with pytest.raises(StackError, match=r"Ceph has the data of this stack, but ceph is missing"):
        auto.decided()
    assert settings.decided().store == "folder"
    (tmp_path / "bin").mkdir()
    for program in ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"):
        shutil.copy(sys.executable, tmp_path / "bin" / program)
    assert auto.decided().store == "ceph"
    (settings.root / "ceph").rmdir()
    assert auto.decided().store == "ceph"
    settings.files.mkdir()
    assert auto.decided().store == "folder", "Ceph, installed later, would seem to have lost everything"


def test_a_missing_program_is_named_with_the_way_out(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "BIN", settings.root)
    with pytest.raises(StackError, match=r"^mlflow is missing in .*; run `make setup`$"):
        servers.mlflow_server(settings, KEYS)

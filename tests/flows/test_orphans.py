"""Runs whose worker or machine was killed with SIGKILL, and ticks that nobody takes: real servers and workers."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Crashed

from flows import automations
from helpers.deployment import PREFECT, PROJECT
from helpers.faults import LIST, clean_environment, copied_database, wait_for
from helpers.faults_servers import Server, end_with_parent, shared
from tasks.watch.runs import LISTEN_S, SILENCE, WATCHER, list_of, look_at_runs, put_right, runs

pytestmark = pytest.mark.slow

LONG = {**LIST, "targets": ["rose"], "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 50_000}}}
FREE_WITHIN_S = 120
UNENDED = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING)


class Machine:
    """A Prefect server with the project deployed on it, workers, and lists that take for ever."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        (folder / "lists").mkdir(parents=True)
        copied_database(database, folder / "work")
        self.environment = clean_environment(
            PREFECT_HOME=str(folder / "prefect"),
            PREFECT_WORKER_QUERY_SECONDS="1",
            CPE_WORK=str(folder / "work"),
            CPE_LISTS=str(folder / "lists"),
            CPE_THREADS="1",
        )
        command = [str(PREFECT), "server", "start", "--host", "127.0.0.1", "--port", "{port}"]
        self.server = Server("prefect", command, "/api/health", folder, self.environment)
        self.environment["PREFECT_API_URL"] = self.server.url + "/api"
        self.processes: dict[str, subprocess.Popen] = {}
        self.server.start()
        self.prefect("work-pool", "create", "gpu", "--type", "process")
        self.prefect("deploy", "--all")
        self.prefect("deployment", "schedule", "pause", "--all")

    def prefect(self, *arguments: str) -> None:
        command = [PREFECT, "--no-prompt", *arguments]
        done = subprocess.run(command, env=self.environment, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def list_named(self, name: str) -> str:
        (self.folder / "lists" / f"{name}.yaml").write_text(yaml.safe_dump({**LONG, "name": name}))
        return name

    def start(self, name: str, *command: str) -> None:
        """Starts a process in a session of its own; it is killed with the tests."""
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=self.environment,
                cwd=PROJECT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def worker(self, name: str) -> None:
        self.start(name, str(PREFECT), "worker", "start", "--pool", "gpu", "--limit", "1", "--name", name)

    def kill(self, name: str) -> None:
        """Kills a process and all that it has started, at once."""
        process = self.processes.pop(name)
        family = [process.pid]
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
        for pid in family:  # which grows
            family += [child for child, parent in parents.items() if parent == pid]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # none of them sees another one die
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        process.wait(60)

    def tick(self, *names: str) -> list[str]:
        """Looks at the lists in a process of its own, as ticks do; returns those that it tells of."""
        command = [PREFECT.with_name("cpe"), "watch", *names]
        done = subprocess.run(command, env=self.environment, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        told = re.search("^work on (.*) is asked for$", done.stdout, re.MULTILINE)
        asked = told[1].split(", ") if told else []
        for name in asked:
            wait_for(lambda name=name: self.state(name, *UNENDED), f"the run of {name} that was asked for")
        return asked

    def state(self, name: str, *types: StateType):
        """The newest run of a list in one of these states, None for none."""
        with get_client(sync_client=True) as client:
            found = [run for run in runs(client, types or tuple(StateType)) if list_of(run) == name]
        return found[0] if found else None

    def wait_until_running(self, name: str):
        """Waits until a run of the list has begun and was heard."""
        return wait_for(lambda: self.state(name, StateType.RUNNING), f"a run of {name}", 240)

    def give_up(self) -> None:
        """Ends all runs, so that the next test's worker does not take them first."""
        with get_client(sync_client=True) as client:
            for run in runs(client, UNENDED):
                client.set_flow_run_state(run.id, Cancelled(), force=True)

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.server.stop()


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory):
    made = Machine(tmp_path_factory.mktemp("machine"), shared(tmp_path_factory).database)
    yield made
    made.close()


@pytest.fixture
def machine(one_machine, monkeypatch):
    """A machine without workers, from which this process is a client."""
    for name, value in one_machine.environment.items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: one_machine.environment["PREFECT_API_URL"]}):
        automations.declare(600)
        yield one_machine
        for name in list(one_machine.processes):
            one_machine.kill(name)
        one_machine.give_up()


def test_runs_of_killed_workers_and_commands_free_their_lists_within_two_minutes(machine):
    one, two = machine.list_named("one"), machine.list_named("two")
    machine.worker("w")
    assert machine.tick(one) == [one]
    machine.start("by hand", str(PREFECT.with_name("cpe")), "erase", two)
    machine.wait_until_running(one), machine.wait_until_running(two)
    time.sleep(5)  # the first heartbeats are on their way
    assert machine.tick(one, two) == []
    machine.kill("w"), machine.kill("by hand")
    killed = time.monotonic()
    assert machine.state(one).state_type == machine.state(two).state_type == StateType.RUNNING
    for name in (one, two):
        ended = wait_for(lambda name=name: machine.state(name, StateType.CRASHED), f"the end of {name}", FREE_WITHIN_S)
        assert ended.state.message == SILENCE
    assert time.monotonic() - killed < FREE_WITHIN_S
    assert machine.tick(one, two) == [one, two]


def test_a_machine_that_is_killed_frees_its_list_without_the_automation_too(machine):
    name = machine.list_named("three")
    machine.worker("w")
    assert machine.tick(name) == [name]
    machine.wait_until_running(name)
    with get_client(sync_client=True) as client:
        for each in client.read_automations():
            if each.name.startswith("CPE"):
                client.delete_automation(each.id)
    machine.kill("w")
    machine.server.stop()
    killed = time.monotonic()
    machine.server.start()
    time.sleep(max(0.0, FREE_WITHIN_S - (time.monotonic() - killed)))
    assert machine.state(name).state_type == StateType.RUNNING
    assert machine.tick(name) == [name]
    assert machine.state(name, StateType.CRASHED).state.message == SILENCE


def test_a_living_run_keeps_its_place_though_its_record_says_that_it_crashed(machine):
    name = machine.list_named("four")
    machine.worker("w")
    assert machine.tick(name) == [name]
    run = machine.wait_until_running(name)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Crashed(message=SILENCE), force=True)  # as after an absence of the server
        work = look_at_runs(client)
        assert name in work.busy
        assert [each.id for each in work.undead] == [run.id]
        put_right(client, work)
    assert machine.state(name).id == run.id
    assert machine.state(name).state_type == StateType.RUNNING


def test_a_tick_that_was_killed_with_its_server_is_in_the_way_for_two_minutes_at_most(machine):
    name = machine.list_named("six")
    with get_client(sync_client=True) as client:
        before = {run.id for run in runs(client, tuple(StateType), flow=WATCHER)}

        def tick_at_work():
            found = [run for run in runs(client, (StateType.RUNNING,), flow=WATCHER) if run.id not in before]
            return found[0] if found else None

        machine.prefect("deployment", "run", f"{WATCHER}/every-ten-minutes", "--param", f'lists=["{name}"]')
        machine.worker("w")
        killed = wait_for(tick_at_work, "the tick to begin")
        machine.kill("w")
        machine.server.stop()
        machine.server.start()
        time.sleep(FREE_WITHIN_S - LISTEN_S)
        machine.prefect("deployment", "run", f"{WATCHER}/every-ten-minutes", "--param", f'lists=["{name}"]')
        machine.worker("w")
        wait_for(lambda: machine.state(name), "the run that the next tick asks for", FREE_WITHIN_S)
        assert client.read_flow_run(killed.id).state.message == SILENCE


def test_one_tick_waits_at_a_time_and_two_never_run_at_once(machine):
    interval_s = 60
    automations.declare(interval_s)
    waiting = []
    ask = ("deployment", "run", f"{WATCHER}/every-ten-minutes", "--param", 'lists=["five"]')
    machine.list_named("five")
    with get_client(sync_client=True) as client:

        def late() -> int:
            return sum(run.state_name == "Late" for run in runs(client, (StateType.SCHEDULED,), flow=WATCHER))

        for _ in range(2):
            asked = time.monotonic()
            machine.prefect(*ask)
            while time.monotonic() - asked < interval_s:
                waiting.append(late())
                time.sleep(1)
        assert max(waiting) == 1
        wait_for(lambda: late() == 0, "both to be given up")
        machine.prefect(*ask)
        machine.prefect(*ask)
        machine.worker("w1")
        machine.worker("w2")
        wait_for(lambda: machine.state("five"), "the run that a tick asks for", 240)
        wait_for(lambda: not runs(client, UNENDED, flow=WATCHER), "the end of both ticks", 240)
        given_up = [run.state.message for run in runs(client, (StateType.CANCELLED,), flow=WATCHER)]
        assert given_up.count(automations.GIVEN_UP) == 2
        assert all(each == automations.GIVEN_UP or each.endswith(" is at work.") for each in given_up)
        assert sum(list_of(run) == "five" for run in runs(client, tuple(StateType))) == 1, "one asked for it"

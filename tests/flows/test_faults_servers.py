"""Servers that go away during a run, two runs at once, and versions without files: the registry stays true."""

import shutil
import time
from pathlib import Path

import pytest
import yaml

from artifacts.registry.registry import Registry
from helpers.faults import LIST, artifacts_in, copied_database, latest, made, registered, wait_for
from helpers.faults_servers import mlflow_server, shared

pytestmark = pytest.mark.slow

ONE = {**LIST, "targets": ["rose"]}

REGISTER = "artifacts.registry.registry:Registry.register"


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return shared(tmp_path_factory).runner


@pytest.fixture
def work(tmp_path, tmp_path_factory):
    """A new work folder with a list in it."""
    work = tmp_path / "work"
    copied_database(shared(tmp_path_factory).database, work)
    (work / "few.yaml").write_text(yaml.safe_dump(ONE))
    return work


class Held:
    """A run that waits at a function's call until it is let go."""

    def __init__(self, runner, work: Path, at: str, **environment: str) -> None:
        self.flag = work / f"{time.monotonic()}"
        hooks = [["wait_before", at, str(self.flag)], ["write_down", f"{self.flag}.made"]]
        self.run = runner.start("erase", str(work / "few.yaml"), hooks=hooks, CPE_WORK=str(work), **environment)

    def wait(self) -> "Held":
        """Returns once it is there."""
        wait_for(Path(f"{self.flag}.reached").exists, f"the call in {self.run.log}")
        return self

    def let_go(self) -> None:
        """Lets it go on."""
        self.flag.touch()

    @property
    def made(self):
        return made(Path(f"{self.flag}.made"))


def test_a_prefect_server_that_is_stopped_and_started_does_not_disturb_a_run(runner, work, tmp_path_factory):
    server = shared(tmp_path_factory).prefect
    held = Held(runner, work, "cpe.methods.pinpoint.training:Training._note").wait()
    server.stop()
    held.let_go()
    time.sleep(1)
    server.start()
    assert held.run.wait() == 0, held.run.text
    assert max(held.made.values()) == 1, "no task was tried twice"
    assert registered(work) == [1]


@pytest.fixture(scope="module")
def without_prefect(runner, tmp_path_factory):
    """A run whose Prefect server stays away, one that finds none, and one after it has come back."""
    both = shared(tmp_path_factory)
    work = tmp_path_factory.mktemp("without") / "work"
    copied_database(both.database, work)
    (work / "few.yaml").write_text(yaml.safe_dump(ONE))
    soon = {"PREFECT_CLIENT_MAX_RETRIES": "0"}  # which would go on for minutes
    held = Held(runner, work, "cpe.methods.pinpoint.training:Training._note", **soon).wait()
    both.prefect.stop()
    held.let_go()
    code = held.run.wait()
    stored = artifacts_in(work)
    second = runner.start("erase", str(work / "few.yaml"), CPE_WORK=str(work), **soon)
    codes = (code, second.wait())
    both.prefect.start()
    runner.run("erase", str(work / "few.yaml"), hooks=[["write_down", str(work / "third")]], CPE_WORK=str(work))
    return work, (held, second), codes, stored


def test_without_its_prefect_server_a_run_ends_and_the_next_goes_on(without_prefect):
    work, (held, _), codes, stored = without_prefect
    assert all(code > 0 for code in codes)
    assert stored.items() <= artifacts_in(work).items()
    assert registered(work) == [1]
    steps = [what for what in held.made + made(work / "third") if what[0] == "step"]
    assert len(steps) == len(set(steps)) == 40, "trained once"


@pytest.mark.parametrize("which", [0, 1])
def test_the_message_names_the_prefect_server_and_the_way_out(without_prefect, which):
    _, runs, codes, _ = without_prefect
    run = runs[which]
    message = (run.run if isinstance(run, Held) else run).message
    assert "Prefect server" in message
    assert "start it" in message
    assert "PREFECT_API_URL" in message
    assert codes[which] == 2


def test_an_mlflow_server_that_stays_away_ends_the_run_and_a_short_outage_is_bridged(runner, work, tmp_path):
    with mlflow_server(tmp_path, work / "mlflow.db") as server:
        server.start()
        away = Held(runner, work, REGISTER, MLFLOW_TRACKING_URI=server.url).wait()
        server.stop()
        away.let_go()
        assert away.run.wait() == 2
        assert server.url in away.run.message
        assert "check that the MLflow server runs" in away.run.message
        assert registered(work) == []
        stored = artifacts_in(work)
        server.start()
        bridged = Held(runner, work, REGISTER, MLFLOW_TRACKING_URI=server.url).wait()
        server.stop()
        bridged.let_go()
        wait_for(lambda: "Retrying" in bridged.run.text, "a request that fails")
        server.start()
        assert bridged.run.wait() == 0, bridged.run.text
        assert not bridged.made, "all was in the store"
        assert artifacts_in(work) == stored
        registry = Registry(server.url)
        assert [(each.version, each.aliases) for each in registry.models()] == [(1, ("champion",))]
        assert (registry.fetch("cpe-few", tmp_path / "fetched") / "manifest.json").is_file()


def test_two_runs_of_one_list_at_once_make_everything_once_and_one_version(runner, work):
    (work / "few.yaml").write_text(yaml.safe_dump(LIST))
    runs = [Held(runner, work, "artifacts.registry.registry:Registry.record_run") for _ in range(2)]
    wait_for(lambda: any(Path(f"{each.flag}.reached").exists() for each in runs), "one that registers")
    wait_for(lambda: all("looking: 100%" in each.run.text for each in runs), "the other")
    time.sleep(4)  # for the other to come to the same place, if nothing kept it
    for each in runs:
        each.let_go()
    assert [each.run.wait() for each in runs] == [0, 0], runs[0].run.text + runs[1].run.text
    counts = runs[0].made + runs[1].made
    assert {what[0] for what in counts} == {"prompt", "step", "picture", "seen", "stored"}
    assert max(counts.values()) == 1, [what for what, count in counts.items() if count > 1]
    assert registered(work) == [1]
    assert len(list((work / "results").glob("*.json"))) == 2
    assert latest(work)["champion"]


@pytest.fixture(scope="module")
def lost(runner, tmp_path_factory):
    """What commands say of a version whose files are gone, before and after the next run."""
    work = tmp_path_factory.mktemp("lost") / "work"
    copied_database(shared(tmp_path_factory).database, work)
    (work / "few.yaml").write_text(yaml.safe_dump(ONE))
    runner.run("erase", str(work / "few.yaml"), CPE_WORK=str(work))
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    shutil.rmtree(work / "mlartifacts" / registry.resolve("cpe-few/1").run_id)
    commands = {
        "show": ["models", "show", "cpe-few/1"],
        "fetch": ["models", "show", "cpe-few/1", "--fetch", str(work / "fetch")],
        "generate": ["generate", "a rose", "--gates", "cpe-few@champion", "--out", str(work / "out")],
        "promote": ["models", "promote", "cpe-few/1", "--reason", "it is the best"],
    }
    before = {name: runner.start(*command, CPE_WORK=str(work)) for name, command in commands.items()}
    codes = {name: run.wait() for name, run in before.items()}
    assert not (work / "fetch").exists()
    assert not (work / "out").exists()
    runner.run("erase", str(work / "few.yaml"), CPE_WORK=str(work))
    runner.run(*commands["generate"], CPE_WORK=str(work))
    return work, before, codes


@pytest.mark.parametrize("command", ["fetch", "generate", "promote"])
def test_a_version_without_files_is_not_used_and_the_message_says_how_to_have_them_again(command, lost):
    _, runs, codes = lost
    assert codes[command] == 2, runs[command].text
    assert "there are no files" in runs[command].message or "are gone" in runs[command].message
    assert "run `cpe erase` with its list again" in runs[command].message


def test_a_version_without_files_is_shown_as_such(lost):
    _, runs, _ = lost
    assert "files" in runs["show"].text
    assert "gone" in runs["show"].text


def test_the_next_run_registers_the_same_gates_as_a_version_with_files(lost):
    work, _, _ = lost
    assert latest(work)["version"] == 2
    assert latest(work)["gates"]["trained"] == 0
    assert latest(work)["champion"]
    assert (work / "out" / "00000.png").is_file()

"""A worker that is killed, at every stage: the next run goes on where it was and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from artifacts.registry.registry import Registry
from helpers.faults import LIST, artifacts_in, clean_environment, copied_database, latest, made, registered, wait_for
from helpers.faults_servers import shared

pytestmark = pytest.mark.slow

STEPS = {"stages": 3, "first_steps": 280, "later_steps": 260, "adversary_steps": 20, "copies": 2}
ALL_STEPS = 280 + 2 * (260 + 20)
EVERY = 250  # steps between two checkpoints of a stage
STARTS = ("a", "the", "one", "my", "a small", "a big", "an old", "a drawing of a")
LONG = {
    **LIST,
    "templates": [f"{start} {{}}" for start in STARTS],  # 79 prompts: more than are encoded at once
    "training": {"preset": "emoji", "changes": STEPS},
    "evaluation": {"as_published": True, "templates": ["a picture of a {}", "a {} in the style of noto"], "seeds": 2},
}
KILLS = {
    "encoding": ["die_writing_rows", 5],
    "stage 1": ["die_training", 0, "erase", 270],
    "adversary": ["die_training", 1, "adversary", 15],
    "stage 2": ["die_training", 1, "erase", 255],
    "stage 3": ["die_training", 2, "erase", 252],
    "storing gates": ["die_copying", "*gates/*/gate.safetensors", 2],
    "bundling": ["die_copying", "*bundles/*/manifest.json"],
    "drawing before": ["die_saving_picture", 3],
    "storing pictures": ["die_copying", "*pictures/*/000002.png"],
    "drawing after": ["die_saving_picture", 6],
    "looking": ["die_copying", "*observations/*/values.safetensors", 3],
    "measuring": ["die_copying", "*scores/*/pictures.parquet"],
    "recording": ["die_before", "mlflow:MlflowClient.log_artifacts", 2],
    "registering": ["die_before", "artifacts.registry.registry:Registry.register"],
    "registered": ["die_after", "mlflow:MlflowClient.create_model_version"],
    "promoting": ["die_before", "mlflow:MlflowClient.set_registered_model_alias"],
    "promoted": ["die_after", "mlflow:MlflowClient.set_registered_model_alias"],
    "reporting": ["die_before", "artifacts.registry.registry:Registry.attach"],
}
# What was in hand at a kill, and so is made again: a picture, or what one observer saw in one shard.
IN_HAND = {"prompt": 0, "picture": 2, "seen": 1, "stored": 0}


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return shared(tmp_path_factory).runner


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return shared(tmp_path_factory).database


@pytest.fixture(scope="module")
def calm(runner, database, tmp_path_factory):
    """The work folder of a run that nothing happened to."""
    work = tmp_path_factory.mktemp("calm")
    copied_database(database, work)
    (work / "few.yaml").write_text(yaml.safe_dump(LONG))
    runner.run("erase", str(work / "few.yaml"), CPE_WORK=str(work))
    return work


@pytest.fixture(scope="module")
def killed(runner, database, tmp_path_factory):
    """A run that was killed at every stage: its work folder, and what there was and had been made at each kill."""
    work = tmp_path_factory.mktemp("killed")
    copied_database(database, work)
    (work / "few.yaml").write_text(yaml.safe_dump(LONG))
    at = {}
    for name, how in {**KILLS, "end": None}.items():
        hooks = [["write_down", str(work / f"{name}.made")], *([how] if how else [])]
        run = runner.start("erase", str(work / "few.yaml"), hooks=hooks, CPE_WORK=str(work))
        assert run.wait() == (-signal.SIGKILL if how else 0), f"{name}: {run.text}"
        at[name] = {
            "store": artifacts_in(work),
            "made": made(work / f"{name}.made"),
            "versions": registered(work),
            "prompts": b"".join(path.read_bytes() for path in work.glob("embeddings/*/index.jsonl")),
            "results": len(list(work.glob("results/*.json"))),
            "pictures": recorded_pictures(work),
        }
    return work, at


def recorded_pictures(work: Path) -> dict[str, bytes]:
    """Returns the pictures of shards in the making that are recorded as whole."""
    found = {}
    for record in (work / "drawing").glob("*.jsonl"):
        for name, _ in map(json.loads, record.read_text().splitlines()):
            found[f"{record.stem}/{name}"] = (record.with_suffix("") / name).read_bytes()
    return found


@pytest.mark.parametrize("name", KILLS)
def test_nothing_that_was_stored_before_a_kill_is_ever_written_again(name, killed):
    work, at = killed
    assert at[name]["store"].items() <= artifacts_in(work).items()
    assert at["end"]["prompts"].startswith(at[name]["prompts"].rpartition(b"\n")[0])
    assert at[name]["results"] == 0, "a run that was cut off has no results"
    for picture, content in at[name]["pictures"].items():
        assert (work / "store" / "pictures" / picture).read_bytes() == content


def test_the_killed_run_ends_in_the_gates_and_scores_of_an_undisturbed_one(killed, calm):
    work, _ = killed
    gates = sorted(path.relative_to(calm) for path in calm.glob("store/gates/*/gate.safetensors"))
    assert len(gates) == 2
    for path in gates:
        expected, found = load_file(calm / path), load_file(work / path)
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert at_rest(latest(work)) == at_rest(latest(calm))
    for one, other in zip(latest(work)["figures"], latest(calm)["figures"], strict=True):
        # A picture may differ in its last bits by the batch that it was drawn in.
        assert one["after"] == pytest.approx(other["after"], rel=1e-3, abs=1e-2)


def at_rest(results: dict) -> dict:
    names = ("list", "erased", "kept", "h0", "bars", "holes", "model", "version", "champion", "fell_short")
    return {name: results[name] for name in names}


@pytest.mark.parametrize("kind", IN_HAND)
def test_nothing_is_made_twice_but_the_piece_in_hand(kind, killed):
    _, at = killed
    counts: Counter = sum((each["made"] for each in at.values()), Counter())
    times = [count for what, count in counts.items() if what[0] == kind]
    assert len(times) >= 8, "the case needs something made"
    assert sum(times) - len(times) == IN_HAND[kind]


def test_no_step_of_the_training_is_taken_twice_but_those_since_the_last_checkpoint(killed):
    _, at = killed
    done = 0
    for name, each in at.items():
        steps = sorted(what[-1] for what in each["made"] if what[0] == "step")
        if steps:
            assert steps == list(range(steps[0], steps[-1] + 1))
            assert 0 <= done - steps[0] <= EVERY
            assert done == 0 or steps[0] > 0, f"{name} did not begin again"
            done = steps[-1] + 1
    assert done == ALL_STEPS
    assert sum("step" in {what[0] for what in each["made"]} for each in at.values()) == 5


def test_one_version_is_registered_with_files_and_champion_with_its_reason(killed):
    work, at = killed
    assert {name for name in at if at[name]["versions"]} == {"registered", "promoting", "promoted", "reporting", "end"}
    assert at["end"]["versions"] == [1]
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    found = registry.resolve("cpe-few@champion")
    assert "accuracy on erased" in found.tags["promoted_reason"]
    assert latest(work)["champion"]


def test_the_report_is_beside_the_files_of_the_version_even_if_the_run_was_killed_between_them(killed):
    work, _ = killed
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    found = registry.resolve("cpe-few@champion")
    assert Path(latest(work)["report"]).is_file()
    assert [file.path for file in registry.client.list_artifacts(found.run_id, "report")]


def test_nothing_is_left_over_of_what_was_cut_off(killed):
    work, _ = killed
    for folder in ("checkpoints", "trained", "drawing"):
        assert list((work / folder).iterdir()) == [], folder


def test_a_command_killed_with_its_own_prefect_server_can_be_run_again(tmp_path, database):
    work = tmp_path / "work"
    copied_database(database, work)
    changes = {"stages": 2, "first_steps": 300, "later_steps": 400, "copies": 0}
    (work / "few.yaml").write_text(yaml.safe_dump({**LIST, "training": {"preset": "emoji", "changes": changes}}))
    environment = clean_environment(PREFECT_HOME=str(tmp_path / "prefect"), CPE_WORK=str(work))
    command = [sys.executable, "-m", "flows.cli.app", "erase", str(work / "few.yaml")]
    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(command, env=environment, stderr=log, stdout=log, start_new_session=True)
        wait_for(lambda: list(work.glob("checkpoints/*.safetensors")), "a checkpoint")
        first.kill()  # its server lives on, as when the system kills the largest process
        assert first.wait() == -signal.SIGKILL
    try:
        second = subprocess.run(command, env=environment, capture_output=True, text=True)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
    assert second.returncode == 0, second.stderr
    assert "training 2 gates: 100%" in second.stderr
    assert registered(work) == [1]

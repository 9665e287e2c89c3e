"""Real workers on a real server: deployments, work that several share, lists that change while people are away."""

import json
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.deployment import PREFECT, PROJECT, heed_interrupts
from helpers.deployment import deployed as deployed
from helpers.deployment import server as server
from helpers.here import places_in
from helpers.lists import LIST, LITTLE
from tasks.prepare import prepare_concepts
from tasks.train import plan_training, train_gates

pytestmark = pytest.mark.slow


@contextmanager
def workers(prefect, count, folder):
    """Runs so many workers of the pool, one flow run each."""
    started, options = [], {"env": prefect.environment, "cwd": PROJECT}
    try:
        for number in range(count):
            log = (folder / f"worker-{number}.log").open("w")
            command = [PREFECT, "worker", "start", "--pool", "gpu", "--limit", "1", "--name", f"worker {number}"]
            started.append(
                (subprocess.Popen(command, preexec_fn=heed_interrupts, **options, stdout=log, stderr=log), log)
            )
        yield
    finally:
        for process, log in started:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            log.close()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(1)
    return found


def states_of_parts(deployed) -> set[str]:
    return {run.state_type.value for run in deployed.runs("work-on-part")}


def test_deployments_are_accepted_and_a_worker_runs_one(deployed, tmp_path):
    little = {
        **LIST,
        "targets": ["rose"],
        "kept": ["castle"],
        "evaluation": {"as_published": True, "templates": ["a picture of a {}"], "seeds": 2},
        "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 30}},
        "bars": {},
    }
    path = tmp_path / "little.yaml"
    path.write_text(yaml.safe_dump(little))
    names = ("erase-and-evaluate/emoji", "erase-and-evaluate/emoji-styles", "erase-and-evaluate/celebs",
             "erase-and-evaluate/artists", "erase-and-evaluate/explicit", "watch-concepts/every-ten-minutes",
             "work-on-part/gpu", "compare/emoji", "attack/emoji")  # fmt: skip
    for name in names:
        assert f"{name}'" in deployed.said.replace("\n", "")
    # As who was told of the parameter's former name does it, and earlier deployments.
    deployed("deployment", "run", "erase-and-evaluate/emoji", "--param", f"concepts={path}")
    worked = deployed("worker", "start", "--pool", "gpu", "--run-once")
    results = list((tmp_path / "work" / "results").glob("*.json"))
    assert len(results) == 1, worked
    figures = json.loads(results[0].read_text())
    assert figures["model"] == "cpe-few"
    assert figures["erased"]["count"] == 2
    assert Path(figures["report"]).exists()
    for key in ("few-results", "few-report", "few-pictures"):
        assert key in deployed("artifact", "inspect", key)


def test_two_workers_share_a_list_and_make_what_one_makes(deployed, tmp_path, monkeypatch):
    path = tmp_path / "little.yaml"
    path.write_text(yaml.safe_dump(LITTLE))
    with workers(deployed, 2, tmp_path):
        deployed(
            "deployment", "run", "erase-and-evaluate/emoji", "--watch",
            "--param", f"list={path}", "--param", "workers=2",
        )  # fmt: skip
        # a part that was taken back while its worker was starting it is given up when it begins
        wait_for(lambda: states_of_parts(deployed) <= {"COMPLETED", "CANCELLED"}, 60)
    assert "COMPLETED" in states_of_parts(deployed), "the other worker did a part"
    (results,) = (json.loads(p.read_text()) for p in (tmp_path / "work" / "results").glob("*.json"))
    assert results["gates"] == {"trained": 3, "reused": 0}
    assert results["erased"]["count"] == 3 * 2
    places = places_in(tmp_path / "alone")
    plan = prepare_concepts(places, str(path))
    for group in plan_training(places, plan):
        train_gates(places, plan, group)
    for gate in plan.gates:
        shared, alone = (
            load_file(tmp_path / folder / "store" / "gates" / gate.address / "gate.safetensors")
            for folder in ("work", "alone")
        )
        assert shared.keys() == alone.keys()
        for name in alone:  # batched differently, so equal but for rounding
            torch.testing.assert_close(shared[name], alone[name], rtol=2e-3, atol=2e-4)


def test_parts_that_nobody_takes_are_done_by_the_run_that_asked(deployed, tmp_path):
    path = tmp_path / "little.yaml"
    path.write_text(yaml.safe_dump({**LITTLE, "targets": ["rose", "pizza"]}))
    with workers(deployed, 1, tmp_path):
        deployed(
            "deployment", "run", "erase-and-evaluate/emoji", "--watch",
            "--param", f"list={path}", "--param", "workers=3",
        )  # fmt: skip
    (results,) = (json.loads(p.read_text()) for p in (tmp_path / "work" / "results").glob("*.json"))
    assert results["gates"]["trained"] == 2
    assert results["erased"]["count"] == 2 * 2


def test_a_changed_list_is_noticed_worked_on_and_promoted_without_anybody(deployed, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "little.yaml").write_text(yaml.safe_dump({**LITTLE, "targets": ["rose"]}))
    deployed.environment["CPE_LISTS"] = str(lists)
    results = tmp_path / "work" / "results"

    def tick():
        deployed("deployment", "run", "watch-concepts/every-ten-minutes", "--watch", "--param", 'lists=["little"]')

    with workers(deployed, 2, tmp_path):
        tick()
        wait_for(lambda: list(results.glob("*.json")), 300)
        assert len(deployed.runs("erase-and-evaluate")) == 1
        tick()
        time.sleep(5)
        assert len(deployed.runs("erase-and-evaluate")) == 1, "nothing changed, nothing started"
        (lists / "little.yaml").write_text(yaml.safe_dump({**LITTLE, "targets": ["rose", "pizza"]}))
        tick()
        wait_for(lambda: len(list(results.glob("*.json"))) == 2, 300)
    last = json.loads(max(results.glob("*.json")).read_text())
    assert last["gates"] == {"trained": 1, "reused": 1}
    assert last["champion"]


def test_a_part_taken_back_while_its_worker_was_starting_is_not_begun(deployed, tmp_path):
    """Prefect lets a run that was cancelled between its worker's claim and its first step run all the same."""
    created = deployed("deployment", "run", "work-on-part/gpu", "--param", "plan=nowhere", "--param", "stage=train",
                       "--param", "part=0", "--param", "parts=1")  # fmt: skip
    run = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", created).group()
    deployed("flow-run", "cancel", run)
    deployed.environment["PREFECT__FLOW_RUN_ID"] = run
    deployed("flow-run", "execute", run)
    assert states_of_parts(deployed) == {"CANCELLED"}, "begun, it would have failed: there is no such plan"

"""The deployment: accepted by a real Prefect server, run by a real worker."""

import json
from pathlib import Path

import yaml

from helpers.deployment import prefect as prefect
from helpers.lists import LIST


def test_deployments_are_accepted_and_a_worker_runs_one(prefect, tmp_path):
    little = {
        **LIST,
        "targets": ["rose"],
        "kept": ["castle"],
        "evaluation": {"templates": ["a picture of a {}"], "seeds": 2},
        "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 30}},
        "bars": {},
    }
    path = tmp_path / "little.yaml"
    path.write_text(yaml.safe_dump(little))
    prefect("work-pool", "create", "gpu", "--type", "process")
    deployed = prefect("deploy", "--all")
    assert "erase-and-evaluate/emoji'" in deployed.replace("\n", "")
    names = ("erase-and-evaluate/emoji-styles", "erase-and-evaluate/celebs", "erase-and-evaluate/artists",
             "erase-and-evaluate/explicit", "watch-concepts/every-ten-minutes", "work-on-part/gpu",
             "compare/emoji", "attack/emoji")  # fmt: skip
    for name in names:
        assert f"{name}'" in deployed.replace("\n", "")
    prefect("deployment", "schedule", "pause", "--all")  # the watcher would start its own list in the middle
    # As who was told of the parameter's former name does it, and earlier deployments.
    prefect("deployment", "run", "erase-and-evaluate/emoji", "--param", f"concepts={path}")
    worked = prefect("worker", "start", "--pool", "gpu", "--run-once")
    results = list((tmp_path / "work" / "results").glob("*.json"))
    assert len(results) == 1, worked
    figures = json.loads(results[0].read_text())
    assert figures["model"] == "cpe-few"
    assert figures["erased"]["count"] == 2
    assert Path(figures["report"]).exists()
    for key in ("few-results", "few-report", "few-pictures"):
        assert key in prefect("artifact", "inspect", key)

"""`cpe plan` counts what is to do and `cpe doctor` what is missing; neither makes anything."""

import json

import pytest
import yaml
from safetensors.torch import load_file
from test_flow import LIST
from typer.testing import CliRunner

from flows.cli import app
from tasks.draw import draw_pictures
from tasks.places import Places
from tasks.planning import Rates, estimate
from tasks.prepare import prepare_concepts
from tasks.train import plan_training, train_gates

RUNNER = CliRunner()
RATES = Rates(
    prompt_s=0.5,
    prompt_bytes=17,
    first_step_s=1.0,
    later_step_s=2.0,
    adversary_step_s=3.0,
    picture_s=7.0,
    look_s=11.0,
    picture_bytes=13,
)
CHANGES = {"stages": 3, "first_steps": 10, "later_steps": 4, "adversary_steps": 2, "copies": 1}


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("CPE_DATA", str(tmp_path / "data"))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "CPE_IDENTITY_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump({**LIST, "training": {"preset": "emoji", "changes": CHANGES}}))
    return path


def costs_of(path):
    plan, places = prepare_concepts.fn(str(path)), Places.from_environment()
    return plan, {cost.work: cost for cost in estimate(plan, RATES, places)}


def test_costs_are_counts_times_rates_and_shrink_as_work_is_done(path):
    plan, costs = costs_of(path)
    names = {"", *LIST["targets"], "object"} | {name for gate in plan.gates for name in gate.anchors}
    prompts = costs["prompts to encode"]
    assert prompts.total == 1 + (len(names) - 1) * len(LIST["templates"])
    assert prompts.seconds == prompts.todo * 0.5
    assert prompts.disk_bytes == prompts.todo * 17
    gates = costs["gates to train"]
    assert (gates.total, gates.todo) == (2, 2)
    assert gates.seconds == 2 * (10 * 1.0 + 2 * 4 * 2.0 + 2 * 2 * 3.0)
    before = costs["pictures before erasing"]
    assert (before.total, before.todo, before.disk_bytes, before.seconds) == (16, 16, 16 * 13, 16 * 7.0)
    assert costs["pictures to measure"].seconds == 32 * 11.0
    draw_pictures.fn(plan, None)
    for group in plan_training.fn(plan):
        train_gates.fn(plan, group)
    _, after = costs_of(path)
    assert [after[work].todo for work in ("prompts to encode", "gates to train", "pictures before erasing")] == [
        0,
        0,
        0,
    ]
    assert after["pictures after erasing"].todo == 16
    stored = next((Places.from_environment().work / "store" / "gates").glob("*/gate.safetensors"))
    weights = sum(tensor.nbytes for tensor in load_file(stored).values())
    assert gates.disk_bytes / 2 == pytest.approx(weights, rel=0.01)  # besides its scales


def test_the_command_measures_rates_and_leaves_nothing_made(path):
    shown = RUNNER.invoke(app, ["plan", str(path), "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert all(value > 0 for value in found["rates"].values())
    assert {cost["work"]: cost["todo"] for cost in found["costs"]}["gates to train"] == 2
    assert Places.from_environment().store().keys() == []
    shown = RUNNER.invoke(app, ["plan", str(path)])
    assert "pictures before erasing" in shown.stdout
    assert "in all" in shown.stdout


def test_doctor_names_what_is_missing_and_what_each_list_needs(path, monkeypatch, tmp_path):
    def examined():
        shown = RUNNER.invoke(app, ["doctor", "--json"])
        assert shown.exit_code == 0, shown.output
        found = json.loads(shown.stdout)
        return tuple({each["name"]: each for each in found[part]} for part in ("here", "lists"))

    here, lists = examined()
    assert here["device"]["there"]
    assert not here["Inception weights"]["there"]
    assert str(tmp_path / "data" / "inception") in here["Inception weights"]["found"]
    assert lists["emoji"]["there"]
    assert not lists["celebs"]["there"]
    for needed in ("CompVis/stable-diffusion-v1-4", "celebrity detector", "coco.csv", "Inception"):
        assert needed in lists["celebs"]["found"]
    (tmp_path / "data" / "inception").mkdir(parents=True)
    (tmp_path / "data" / "inception" / "pt_inception-2015-12-05-6726825d.pth").touch()
    (tmp_path / "data" / "coco.csv").write_text("prompt,evaluation_seed\na cat,1\n")
    monkeypatch.setenv("CPE_IDENTITY_COMMAND", "detector")
    monkeypatch.setenv("CPE_STORE", "s3://nowhere/at/all")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    here, lists = examined()
    assert here["Inception weights"]["there"]
    assert not here["artifact store"]["there"]
    assert not here["Prefect server"]["there"]
    for gone in ("celebrity detector", "coco.csv", "Inception"):
        assert gone not in lists["celebs"]["found"]
    assert "i2p.csv" in lists["explicit"]["found"]


def test_the_rate_of_drawing_is_that_of_a_run_without_what_only_the_first_drawing_costs(path, monkeypatch):
    """A warm-up that took a second would make four pictures of every one."""
    import time

    from cpe.profiles import PROFILES
    from tasks.planning import _time_drawing

    pipe = Places.from_environment().loaded("embedded")
    real, calls = type(pipe).__call__, []

    def slow_at_first(self, prompts, **options):
        if not calls:
            time.sleep(3)
        calls.append(len(prompts))
        return real(self, prompts, **options)

    monkeypatch.setattr(type(pipe), "__call__", slow_at_first)
    profile = PROFILES["embedded"]
    _, rate = _time_drawing(pipe, profile, "a tiger")
    assert rate < 3.0, "the first one's 3 s are in no picture's"
    assert calls[0] == 1
    assert calls[-1] == profile.batch or calls[-1] * rate > 1, "as many at once as a run draws, where that is quick"

"""`cpe plan` counts what is to do and `cpe doctor` what is missing; neither makes anything."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from cpe.methods.pinpoint.cost import seconds_of
from cpe.methods.pinpoint.method import PINPOINT
from cpe.terms.profiles import PROFILES
from flows.cli.app import app
from helpers.here import here, places_in
from helpers.lists import LIST
from tasks.attacks.search import search_texts
from tasks.desk import cost as planning
from tasks.desk.cost import Rates, estimate
from tasks.draw import draw_pictures
from tasks.prepare import prepare_concepts
from tasks.train import assemble_bundle, plan_training, train_gates

RUNNER = CliRunner()
RATES = Rates(
    prompt_s=0.5,
    prompt_bytes=17,
    concept_s=42.0,
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
    plan = prepare_concepts(here(), str(path))
    return plan, {cost.work: cost for cost in estimate(plan, RATES, here())}


def test_an_estimate_is_of_the_store_that_it_is_given(path, tmp_path):
    here, elsewhere = (places_in(tmp_path / name) for name in ("work", "elsewhere"))
    plan = prepare_concepts(here, str(path))
    gate = tmp_path / "gate"
    gate.mkdir()
    (gate / "manifest.json").write_text("{}")
    here.store().put(f"gates/{plan.gates[0].address}", gate)
    todo = [
        {cost.work: cost.todo for cost in estimate(plan, RATES, places)}["gates to train"]
        for places in (here, elsewhere)
    ]
    assert todo == [1, 2]


def test_costs_are_counts_times_rates_and_shrink_as_work_is_done(path):
    plan, costs = costs_of(path)
    names = {"", *LIST["targets"], "object"} | {name for gate in plan.gates for name in gate.anchors}
    prompts = costs["prompts to encode"]
    assert prompts.total == 1 + (len(names) - 1) * len(LIST["templates"])
    assert prompts.seconds == prompts.todo * 0.5
    assert prompts.disk_bytes == prompts.todo * 17
    gates = costs["gates to train"]
    assert (gates.total, gates.todo) == (2, 2)
    assert gates.seconds == 2 * 42.0
    before = costs["pictures before erasing"]
    assert (before.total, before.todo, before.disk_bytes, before.seconds) == (16, 16, 16 * 13, 16 * 7.0)
    assert costs["pictures to measure"].seconds == 32 * 11.0
    draw_pictures(here(), plan, None)
    for group in plan_training(here(), plan):
        train_gates(here(), plan, group)
    _, after = costs_of(path)
    assert [after[work].todo for work in ("prompts to encode", "gates to train", "pictures before erasing")] == [
        0,
        0,
        0,
    ]
    assert after["pictures after erasing"].todo == 16
    stored = next((here().work / "store" / "gates").glob("*/gate.safetensors"))
    weights = sum(tensor.nbytes for tensor in load_file(stored).values())
    assert gates.disk_bytes / 2 == pytest.approx(weights, rel=0.01)  # besides its scales


def test_attacks_that_learn_cost_their_steps_and_nothing_once_they_are_stored(path):
    listed = yaml.safe_load(path.read_text())
    listed["evaluation"] |= {"attacks": ["inversion", "ring-a-bell-soft"], "budget": {"steps": 3, "starts": 2}}
    path.write_text(yaml.safe_dump(listed))
    places = here()
    plan = prepare_concepts(places, str(path))
    rates = planning.measure_rates(plan, places)
    assert all(seconds > 0 for seconds in rates.attack_s.values())
    rates = replace(rates, attack_s={"inversion": 15.0, "ring-a-bell-soft": 1.0})
    costs = {cost.work: cost for cost in estimate(plan, rates, places)}
    texts = costs["texts that attacks learn"]
    # Two starts for each of two targets, and for each of two kept concepts as a control.
    assert (texts.total, texts.todo, texts.seconds) == (16, 16, 8 * 15.0 + 8 * 1.0)
    for group in plan_training(places, plan):
        train_gates(places, plan, group)
    assemble_bundle(places, plan)
    search_texts(places, plan)
    texts = {cost.work: cost for cost in estimate(plan, rates, places)}["texts that attacks learn"]
    assert (texts.total, texts.todo, texts.seconds) == (16, 0, 0.0)


def test_a_gates_seconds_are_its_steps_times_theirs():
    config = PINPOINT.config("emoji", CHANGES)
    assert seconds_of(config, 1.0, 2.0, 3.0) == 10 * 1.0 + 2 * 4 * 2.0 + 2 * 2 * 3.0
    assert seconds_of(config.model_copy(update={"copies": 0}), 1.0, 2.0, 3.0) == 10 * 1.0 + 2 * 4 * 2.0


def test_the_command_measures_rates_and_leaves_nothing_made(path):
    shown = RUNNER.invoke(app, ["plan", str(path), "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    rates = found["rates"]
    assert rates.pop("attack_s") == {}, "no attack of this list learns"
    assert all(value > 0 for value in rates.values())
    assert {cost["work"]: cost["todo"] for cost in found["costs"]}["gates to train"] == 2
    assert here().store().keys() == []
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


class Clocked:
    """A pipeline whose every part takes the time that it is told to, on a clock of its own."""

    device, scheduler = torch.device("cpu"), None

    def __init__(self, *, picture_step_s: float) -> None:
        self.picture_step_s, self.now_s, self.batches = picture_step_s, 0.0, []

    def __call__(self, prompts, *, num_inference_steps, callback_on_step_end=None, **options):
        self.now_s += 0.0 if self.batches else 30.0  # what only the first drawing of a process needs
        self.batches.append(len(prompts))
        for step in range(num_inference_steps):
            self.now_s += 0.02 + self.picture_step_s * len(prompts)
            if callback_on_step_end is not None:
                callback_on_step_end(self, step, step, {})
        self.now_s += 0.02 * len(prompts)
        return SimpleNamespace(images=[None] * len(prompts))


@pytest.mark.parametrize(("picture_step_s", "batch"), [(0.001, 50), (60.0, 1)])
def test_the_rate_of_drawing_is_that_of_a_run(picture_step_s, batch, monkeypatch):
    """Neither the first drawing's warm-up nor a smaller batch than a run draws is in it; a slow device draws one."""
    pipe, profile = Clocked(picture_step_s=picture_step_s), PROFILES["embedded"]
    monkeypatch.setattr(planning.time, "perf_counter", lambda: pipe.now_s)
    _, rate = planning._time_drawing(pipe, profile, "a tiger")
    assert pipe.batches[-1] == batch
    assert len(pipe.batches) <= 3
    started = pipe.now_s
    pipe(["a tiger"] * batch, num_inference_steps=profile.steps)
    assert rate == pytest.approx((pipe.now_s - started) / batch)

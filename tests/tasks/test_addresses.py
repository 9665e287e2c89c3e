"""Whatever shapes a gate or a picture is part of its address: nothing made with other settings is taken for it."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cpe.evaluation.pictures import EvaluationSet, PictureRow
from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.gates import Gates
from cpe.models.loading import EMBEDDED_FOLDER
from cpe.models.reused.prompt_cache import _Prompt
from helpers.here import places_in
from helpers.prepare import plan_of
from tasks import draw


@pytest.fixture
def places(tmp_path):
    return places_in(tmp_path / "work")


def another_model(folder):
    """A copy of the embedded model with one number of its U-Net changed."""
    shutil.copytree(EMBEDDED_FOLDER, folder)
    (path,) = (folder / "unet").glob("*.safetensors")
    weights = load_file(path)
    weights["conv_in.bias"][0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    return str(folder)


CHANGES = {
    "surrogate": "animal",
    "seed": 1,
    "templates": ["a {}", "a drawing of a {}"],
    "training": {"preset": "emoji", "changes": {"later_steps": 201}},
    "anchors": {"general": ["animal", "tree"], "pool": ["dog", "lion", "tulip", "taco"], "neighbors": 1},
    "targets": [{"name": "rose", "aliases": ["red rose"]}, {"name": "pizza", "aliases": ["slice"]}],
}


@pytest.mark.parametrize("changed", [*CHANGES, "base_model"])
def test_whatever_a_gate_is_trained_by_is_in_its_address(places, tmp_path, changed):
    value = another_model(tmp_path / "model") if changed == "base_model" else CHANGES[changed]
    before = {gate.address for gate in plan_of(places).gates}
    after = {gate.address for gate in plan_of(places, **{changed: value}).gates}
    assert len(before) == len(after) == 2
    assert not before & after


def test_what_only_evaluates_a_gate_leaves_its_address(places):
    before = [gate.address for gate in plan_of(places).gates]
    after = plan_of(places, name="other", kept=["cat", "horse"], evaluation={"templates": ["one {}"], "seeds": 2})
    assert [gate.address for gate in after.gates] == before


ROW = {
    "picture_id": "1",
    "prompt_id": "1",
    "prompt": "a rose",
    "concept": "rose",
    "template": 0,
    "seed": 1,
    "guidance_scale": 7.5,
    "negative_prompt": "blurry",
}


@pytest.mark.parametrize(
    ("changed", "value"),
    [("prompt", "a red rose"), ("seed", 2), ("guidance_scale", 5.0), ("negative_prompt", ""), ("bundle", "other")],
)
def test_whatever_shapes_a_picture_is_in_its_shards_address(places, monkeypatch, changed, value):
    plan = plan_of(places)

    def address(bundle="one", **changes):
        row = PictureRow(*{**ROW, **changes}.values())
        monkeypatch.setattr(EvaluationSet, "shards", lambda self, profile: iter([[row]]))
        return next(draw.shards(plan, bundle)).address

    assert address() == address()
    assert address(**{changed: value}) != address()


@pytest.mark.parametrize("field", ["fingerprint", "profile"])
def test_the_base_model_and_how_it_draws_are_in_a_shards_address(places, field):
    plan = plan_of(places)
    other = plan.model_copy(update={"fingerprint": "another"})
    if field == "profile":
        other = plan.model_copy(update={"concepts": plan.concepts.model_copy(update={"profile": "cpe"})})
    assert next(draw.shards(plan, None)).address != next(draw.shards(other, None)).address


@pytest.mark.parametrize("config", [GateConfig(gate_rank=16, adapter_rank=1), GateConfig(gate_rank=4, adapter_rank=3)])
def test_gates_start_uniform_within_the_published_bounds(config):
    """±1/√(D R)/D² for queries and keys, ±1/√(D S) for the way down; the way up and the score at 0."""
    width, widths = 96, (8, 16, 8)
    gates = Gates.fresh(config, width, widths, [torch.Generator().manual_seed(n) for n in range(20)])
    narrow = (width * config.gate_rank) ** -0.5 / width**2
    for tensor, bound in (
        (gates.query, narrow),
        (gates.key, narrow),
        (gates.down, (width * config.adapter_rank) ** -0.5),
    ):
        assert 0.99 * bound < tensor.max().item() <= bound
        assert -bound <= tensor.min().item() < -0.99 * bound
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.02), "uniform"
    assert not gates.up.any()
    assert not gates.score.any()


def test_a_text_changed_in_place_is_noticed_where_its_values_are_not_looked_at():
    """As on a GPU, where comparing would wait for it: the count of changes tells, not the values."""
    text = torch.zeros(1, 7, 4, device="meta")
    prompt = _Prompt(text.clone(), {})
    prompt.meet(text)
    assert prompt.is_of(text)
    text.add_(1)
    assert not prompt.is_of(text)
    assert not prompt.is_of(torch.zeros(1, 7, 4, device="meta"))

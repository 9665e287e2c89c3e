"""The benchmarks measure what they say: the same losses and gradients both ways, on the shapes that people use."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks import training
from benchmarks.shapes import UNETS, build_attentions
from cpe.methods.pinpoint.config import PRESETS
from cpe.models.projections import BaseProjections
from cpe.models.sites import find_projections
from flows.cli.app import app


@pytest.mark.parametrize(
    ("shape", "projections", "text_width", "width"),
    [("sd-v1.4", 32, 768, 24960), ("sd-v2.1", 32, 1024, 24960), ("sdxl", 140, 2048, 166400)],
)
def test_shapes_are_those_of_the_published_models(shape, projections, text_width, width):
    found = find_projections(build_attentions(shape, share=20))
    assert len(found) == projections
    assert sum(module.weight.shape[0] for module in found.values()) * 20 == width
    assert {module.weight.shape[1] for module in found.values()} == {text_width}
    assert set(UNETS) == {"sd-v1.4", "sd-v2.1", "sdxl"}


def test_training_benchmark_compares_equal_work():
    unet = build_attentions("sd-v1.4", share=20)
    config = PRESETS["celebrity"].model_copy(update={"copies": 2, "anchors_per_step": 3})
    result = training.measure(unet, config=config, tokens=7, rounds=1)
    kinds = ("first", "erase", "adversary")
    assert set(result["disagreement"]) == {f"{kind} {what}" for kind in kinds for what in ("loss", "gradient")}
    assert max(result["disagreement"].values()) < 1e-9
    for kind in kinds:
        assert result[kind]["ratio"] == pytest.approx(result[kind]["ms_plain"] / result[kind]["ms_ours"], rel=1e-6)
        assert result[kind]["gflop_ours"] < result[kind]["gflop_plain"]
        assert result[kind]["where"][0]["ms_per_step"] > 0
    json.dumps(result)
    assert result["first"]["gflop_ours"] < result["erase"]["gflop_ours"], "the first stage has no copies"
    totals = training.totals(result, config)
    work = {kind: result[kind]["gflop_ours"] / 1e3 for kind in kinds}
    expected = 1800 * work["first"] + 4 * 450 * work["erase"] + 4 * 450 * work["adversary"]
    assert totals["training_tflop_ours"] == pytest.approx(expected)
    text = training.report(result | totals)
    assert "times faster" in text


def test_scaling_counts_time_per_concept():
    base = BaseProjections.of(build_attentions("sd-v1.4", share=40), tokens=77)
    config = PRESETS["celebrity"].model_copy(update={"copies": 2, "anchors_per_step": 3})
    rows = training.scaling(base, config, [1, 2], steps=2)
    assert [row["concepts"] for row in rows] == [1, 2]
    assert all(row["erase_ms_per_concept"] > 0 and row["adversary_ms_per_concept"] > 0 for row in rows)


def test_cpe_bench_measures_training_and_drawing_of_a_model():
    found = CliRunner().invoke(app, ["bench", "--preset", "emoji", "--rounds", "1", "--json"])
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert max(result["training"]["disagreement"].values()) < 1e-9
    assert result["training"]["erase"]["gflop_ours"] < result["training"]["erase"]["gflop_plain"]
    assert [row["gates"] for row in result["inference"]["rows"]] == [0, 1, 50, 500]
    wrong = CliRunner().invoke(app, ["bench", "--preset", "nothing"])
    assert wrong.exit_code == 2
    assert "no training preset 'nothing'" in wrong.output

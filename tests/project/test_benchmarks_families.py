"""The benchmark of families: their published shapes, equal work both ways, rows of one form."""

import json
import math

import pytest
import torch

from benchmarks import embeddings, families
from benchmarks.family_shapes import FAMILIES, FamilyShape, projections_of, sizes_of
from benchmarks.steps import Steps
from cpe.methods.pinpoint.config import PRESETS

SHAPES = {  # tokens, text width, projections, sum of their widths
    "Stable Diffusion 1": (77, 768, 32, 24960),
    "Stable Diffusion XL": (77, 2048, 140, 166400),
    "PixArt-Σ": (300, 1152, 56, 56 * 1152),
    "SANA": (300, 2240, 40, 40 * 2240),
    "Wan 2.1 1.3B": (512, 1536, 60, 60 * 1536),
    "LTX-Video": (128, 2048, 56, 56 * 2048),
    "Latte": (120, 1152, 56, 56 * 1152),
    "Allegro": (512, 2304, 64, 64 * 2304),
    "Cosmos": (512, 1024, 56, 56 * 4096),
    "HunyuanDiT": (333, 1024, 80, 80 * 1408),
}
CONFIG = PRESETS["celebrity"].model_copy(update={"copies": 2, "anchors_per_step": 3})
TINY = {
    "pixart": FamilyShape(
        "PixArtTransformer2DModel",
        6,
        {"num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 32},
        {"num_layers": 1, "sample_size": 8},
    ),
    "sana": FamilyShape(
        "SanaTransformer2DModel",
        5,
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 32,
        },
        {"num_layers": 1, "sample_size": 4},
    ),
    "wan": FamilyShape(
        "WanTransformer3DModel",
        7,
        {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 32, "ffn_dim": 32, "num_layers": 3},
        {"num_layers": 1},
    ),
    "ltx": FamilyShape("LTXVideoTransformer3DModel", 4, {"num_attention_heads": 2, "num_layers": 2}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_are_those_of_the_published_families(name):
    sizes = sizes_of(FAMILIES[name]).values()
    (width,) = {width for _, width in sizes}
    assert (FAMILIES[name].tokens, width, len(sizes), sum(out for out, _ in sizes)) == SHAPES[name]


def test_a_row_says_what_training_and_steps_take():
    rows = families.measure(TINY, config=CONFIG, counts=(0, 1, 3), rounds=1)
    assert [row["family"] for row in rows] == list(TINY)
    for row in rows:
        assert row["form"] == "exact"
        assert row["tokens"] == TINY[row["family"]].tokens
        assert row["width"] > 0
        assert row["plain_sites"] == row["sites"], "all of a tiny network fit into the budget"
        assert all(math.isfinite(row[name]) and row[name] >= 0 for name in ("erase_ms", "plain_ms"))
    for row in rows[:3]:
        assert list(row["step_ratio"]) == list(row["once_ms"]) == [0, 1, 3]
        assert all(math.isfinite(ratio) for ratio in row["step_ratio"].values())
    assert [row["step_ratio"] is None for row in rows] == [False, False, False, True]
    assert set(json.loads(json.dumps(rows))[0]["step_ratio"]) == {"0", "1", "3"}
    table = families.report(rows).splitlines()
    assert len(table) == 1 + len(rows)
    assert "ms once" in table[1]


def test_both_ways_have_the_same_losses_and_gradients():
    exact = projections_of(TINY["pixart"], exact=True, dtype=torch.float64)
    near = projections_of(TINY["pixart"], dtype=torch.float64).gram
    assert (exact.gram.diagonal() / near.diagonal()).mean().item() == pytest.approx(1, abs=0.1)
    assert max(Steps(exact, CONFIG, templates=2, anchors=4).disagreement().values()) < 1e-9


def test_the_plain_way_goes_through_whole_attentions_spread_over_the_depth():
    base = projections_of(TINY["wan"])
    prompts = 3 * CONFIG.targets_per_step + 2 + 2 * 4
    one = 2e-9 * prompts * 7 * 24 * 48  # key and value
    assert families.spread(base, CONFIG, 0.0) == [2, 3]
    assert families.spread(base, CONFIG, 1.5 * one) == [2, 3]
    assert families.spread(base, CONFIG, 2.5 * one) == [0, 1, 4, 5]
    assert families.spread(base, CONFIG, 99 * one) == [0, 1, 2, 3, 4, 5]


def test_the_command_prints_a_table_or_json(monkeypatch, capsys):
    monkeypatch.setitem(FAMILIES, "SANA", TINY["sana"])
    monkeypatch.setattr(families, "COUNTS", (0, 1))
    options = ["--family", "SANA", "--rounds", "1"]
    families.main(options)
    assert "exact" in capsys.readouterr().out
    families.main([*options, "--json"])
    assert [row["family"] for row in json.loads(capsys.readouterr().out)] == ["SANA"]


def test_changed_embeddings_are_measured_beside_residuals(monkeypatch, capsys):
    monkeypatch.setitem(FAMILIES, "SANA", TINY["sana"])
    embeddings.main(["--family", "SANA", "--gates", "1", "4", "--rounds", "2", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["gates"] for row in rows] == [1, 4]
    assert all(math.isfinite(row[name]) for row in rows for name in ("embeddings_ms", "residuals_ms", "made_ms"))
    assert rows[0]["kept_kib"] == 40 * 16 * 4 / 1024, "a row a projection"
    embeddings.main(["--family", "SANA", "--gates", "1", "--rounds", "1"])
    assert "in a gate's file" in capsys.readouterr().out

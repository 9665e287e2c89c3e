"""The inference benchmark draws as a pipeline does, takes turns, and leaves the model as it was."""

import json

import pytest
import torch

from benchmarks import inference
from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.eraser import Eraser
from helpers.tiny import tiny_variant


@pytest.mark.parametrize("kind", ["text", "xl"])
def test_every_size_is_measured_in_every_round_and_the_model_is_given_back(kind, monkeypatch):
    pipe = tiny_variant(kind)
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    drawn = []
    draw = inference._Loop.draw
    monkeypatch.setattr(
        inference._Loop,
        "draw",
        lambda loop, eraser, steps, seed: (
            drawn.append((seed, len(eraser.concepts) if eraser else 0)) or draw(loop, eraser, steps, seed=seed)
        ),
    )
    result = inference.measure(pipe, counts=(3, 1), steps=2, rounds=2, tokens=9)
    assert [row["gates"] for row in result["rows"]] == [0, 1, 3]
    assert sorted(drawn) == [(seed, count) for seed in (-1, 0, 1) for count in (0, 1, 3)]
    assert drawn != sorted(drawn), "each round starts at another size"
    assert result["rows"][0]["ratio"] == 1
    assert all(row["step_s"] > 0 and row["peak_mib"] > 0 for row in result["rows"])
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    assert not any("forward" in vars(module) for module in pipe.unet.modules())
    json.dumps(result)


def test_what_is_measured_is_drawn_with_the_gates():
    pipe, seen = tiny_variant("text"), []
    loop = inference._Loop(pipe.unet, 8, 9)
    handle = pipe.unet.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    loop.draw(None, 1, seed=0)
    loop.draw(Eraser([inference.random_gates(pipe.unet, 5)]), 1, seed=0)
    handle.remove()
    assert seen[0].shape == (2, 4, 8, 8)
    assert not torch.equal(seen[0], seen[2])


def test_random_gates_share_the_tokens_of_a_prompt():
    config = GateConfig(gate_rank=8, adapter_rank=2, tied_qk=False)
    eraser = Eraser([inference.random_gates(tiny_variant("text").unet, 40, config=config)])
    winners = eraser.openness(torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(0))).argmax(dim=0)
    assert len(winners.unique()) > 10


def test_the_command_prints_a_table_or_json(monkeypatch, capsys):
    monkeypatch.setattr(inference, "build_unet", lambda shape: tiny_variant("text").unet)
    options = ["--gates", "1", "2", "--rounds", "1", "--steps", "1", "--latent", "8", "--dtype", "bfloat16"]
    inference.main(options)
    table = capsys.readouterr().out
    assert "bfloat16 on cpu, 1 thread(s)" in table
    assert "untouched" in table
    inference.main([*options, "--json"])
    assert [row["gates"] for row in json.loads(capsys.readouterr().out)["rows"]] == [0, 1, 2]

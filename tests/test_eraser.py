"""Attaching gates to a pipeline: exact, reversible, and never stale."""

import hashlib
import json

import plain
import pytest
import torch
from safetensors.torch import save_file
from small import as_plain
from tiny import eraser_for, gates_for, tiny_pipeline

from cpe.config import GateConfig
from cpe.eraser import Eraser
from cpe.gatefile import GateFileError, LoadedGates, metadata_of, read_gates, to_tensors
from cpe.models import encode_prompts
from cpe.projections import find_projections


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def draw(pipe, prompts, steps=2, guidance=1.0, **options):
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "latent", **options}
    return pipe(prompts, generator=generators, height=16, width=16, **options).images


def test_fresh_gate_changes_nothing_bit_for_bit(pipe):
    before = draw(pipe, ["a tiger"], guidance=5.0)
    with eraser_for(pipe, scale=0).attached(pipe):
        assert torch.equal(draw(pipe, ["a tiger"], guidance=5.0), before)


def test_a_trained_gate_changes_pictures_and_detaching_restores_them(pipe):
    keys = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    before = draw(pipe, ["a tiger"])
    with eraser_for(pipe).attached(pipe):
        assert not torch.allclose(draw(pipe, ["a tiger"]), before)
        assert pipe.unet.state_dict().keys() == keys.keys()
    assert torch.equal(draw(pipe, ["a tiger"]), before)
    assert all(torch.equal(value, keys[name]) for name, value in pipe.unet.state_dict().items())
    assert not any("forward" in vars(module) for module in find_projections(pipe.unet).values())


def test_the_pipeline_is_restored_after_an_exception(pipe):
    before = draw(pipe, ["a tiger"])
    with pytest.raises(ZeroDivisionError), eraser_for(pipe).attached(pipe):
        raise ZeroDivisionError
    assert torch.equal(draw(pipe, ["a tiger"]), before)


def test_a_hook_that_was_there_before_is_still_there_afterwards(pipe):
    module = next(iter(find_projections(pipe.unet).values()))
    original = module.forward
    module.forward = lambda text: original(text)
    hooked = module.forward
    try:
        with eraser_for(pipe).attached(pipe):
            pass
        assert module.forward is hooked
    finally:
        del module.forward


def test_residuals_follow_the_most_open_gate_of_each_token(pipe):
    config = GateConfig(gate_rank=4, adapter_rank=2, alpha=0.5)
    loaded = gates_for(pipe, config, count=3, seed=1)
    loaded = LoadedGates(loaded.concepts, loaded.sites, loaded.gates.map(torch.Tensor.double))
    text = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = Eraser([loaded]).residuals(text)
    gates = [as_plain(loaded.gates, n) for n in range(3)]
    opened = torch.stack([plain.openness(text, gate, tied=True)[0] for gate in gates])  # (N, B, T, 1)
    assert len(opened.argmax(dim=0).unique()) > 1, "the case needs tokens won by different gates"
    for place, site in enumerate(loaded.sites):
        own = torch.stack([plain.residual(text, gate, place, alpha=0.5, tied=True) for gate in gates])
        winner = opened.argmax(dim=0, keepdim=True).expand(1, *own.shape[1:])
        torch.testing.assert_close(got[site], own.gather(0, winner)[0], rtol=1e-9, atol=1e-12)


def test_order_of_concepts_does_not_matter(pipe):
    parts = [gates_for(pipe, GateConfig(gate_rank=rank), seed=rank) for rank in (3, 4, 5)]
    text = encode_prompts(pipe, ["a tiger in the style of noto"])
    one, other = Eraser(parts).residuals(text), Eraser(parts[::-1]).residuals(text)
    assert all(torch.equal(one[site], other[site]) for site in one)


def test_order_of_concepts_does_not_matter_where_openness_rounds_to_one(pipe):
    parts = [gates_for(pipe, GateConfig(gate_rank=4), seed=seed) for seed in (1, 2)]
    parts[0].gates.score.mul_(-100)
    parts[1].gates.query, parts[1].gates.score = parts[0].gates.query, 2 * parts[0].gates.score
    text = encode_prompts(pipe, ["a tiger in the style of noto"])
    assert (Eraser(parts).openness(text).min(dim=0).values == 1).any(), "the case needs ties"
    one, other = Eraser(parts).residuals(text), Eraser(parts[::-1]).residuals(text)
    assert all(torch.equal(one[site], other[site]) for site in one)


def test_gates_of_different_shapes_and_site_orders_merge(pipe, tmp_path):
    configs = [GateConfig(gate_rank=3), GateConfig(gate_rank=5, adapter_rank=2, alpha=0.3, tied_qk=False)]
    for index, config in enumerate(configs):
        part = gates_for(pipe, config, seed=index)
        tensors = to_tensors(part.gates, part.sites)
        save_file(tensors, tmp_path / f"{index}.safetensors", metadata_of(part.gates, part.concepts))
    merged = Eraser.load([tmp_path / "0.safetensors", tmp_path / "1.safetensors"])
    assert merged.concepts == ("concept 0 0", "concept 1 0")
    text = encode_prompts(pipe, ["a tiger"])
    in_memory = Eraser([gates_for(pipe, config, seed=index) for index, config in enumerate(configs)])
    expected = in_memory.residuals(text)
    for site, value in merged.residuals(text).items():
        torch.testing.assert_close(value, expected[site])


def test_residuals_are_computed_once_a_prompt_and_never_reused_for_another(pipe, monkeypatch):
    eraser = eraser_for(pipe)
    seen = []
    compute = eraser.residuals
    monkeypatch.setattr(eraser, "residuals", lambda text: seen.append(text.clone()) or compute(text))
    with eraser.attached(pipe):
        first = draw(pipe, ["a tiger"], steps=6)
        assert len(seen) == 1
        draw(pipe, ["a lion"], steps=2)
        assert len(seen) == 2
        draw(pipe, ["a tiger", "a lion"], steps=2)
        assert len(seen) == 3
        assert torch.equal(draw(pipe, ["a tiger"], steps=6), first)
        assert len(seen) == 3, "an equal prompt is recognised by its embedding"


def test_with_gradients_residuals_are_computed_once_and_no_graph_is_kept(pipe, monkeypatch):
    eraser = eraser_for(pipe)
    seen = []
    compute = eraser.residuals
    monkeypatch.setattr(eraser, "residuals", lambda text: seen.append(1) or compute(text))
    text = encode_prompts(pipe, ["a tiger"])
    module = next(iter(find_projections(pipe.unet).values()))
    with eraser.attached(pipe):
        with torch.no_grad():
            expected = module(text).clone()
        for _ in range(2):  # a kept output would fail the second backward
            got = module(text)
            torch.testing.assert_close(got.detach(), expected)
            got.sum().backward()
    module.weight.grad = None
    assert len(seen) == 1


@pytest.mark.parametrize("inference", [False, True])
def test_a_text_changed_in_place_is_noticed(pipe, inference):
    eraser = eraser_for(pipe)
    text = encode_prompts(pipe, ["a tiger"])
    name, module = next(iter(find_projections(pipe.unet).items()))
    with torch.inference_mode(inference), torch.no_grad(), eraser.attached(pipe):
        if inference:
            text = text.clone()
        module(text)
        text.mul_(0.5)
        got = module(text)
        expected = torch.nn.functional.linear(text, module.weight) + eraser.residuals(text)[name]
        torch.testing.assert_close(got, expected)


def test_a_picture_does_not_depend_on_its_batch(pipe):
    with eraser_for(pipe).attached(pipe):
        together = draw(pipe, ["a tiger", "a rose"])
        alone = draw(pipe, ["a tiger"])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_another_eraser_on_top_is_refused(pipe):
    eraser = eraser_for(pipe)
    with eraser.attached(pipe):
        with pytest.raises(RuntimeError, match="load all gates into one eraser"):
            eraser_for(pipe, seed=1).attach(pipe)
        with pytest.raises(RuntimeError, match="attached already"):
            eraser.attach(pipe)


def test_fused_projections_are_refused():
    pipe = tiny_pipeline()
    pipe.unet.fuse_qkv_projections()
    with pytest.raises(ValueError, match="unfuse_qkv_projections"):
        eraser_for(tiny_pipeline()).attach(pipe)


def test_gates_of_another_width_are_refused_with_both_widths(pipe):
    wrong = gates_for(pipe, GateConfig())
    wide = LoadedGates(wrong.concepts, wrong.sites, wrong.gates.map(lambda t: t))
    wide.gates.query = torch.zeros(1, 48, 16)
    wide.gates.key = torch.zeros(1, 48, 16)
    with pytest.raises(ValueError, match="text width 48, the pipeline has 32"):
        Eraser([wide]).attach(pipe)
    with pytest.raises(ValueError, match="expect text width 32, got 20"):
        Eraser([wrong]).residuals(torch.zeros(3, 20))


def test_a_cut_off_gate_file_is_refused_by_name(pipe, tmp_path):
    part = gates_for(pipe, GateConfig())
    path = tmp_path / "gate.safetensors"
    save_file(to_tensors(part.gates, part.sites), path, metadata_of(part.gates, part.concepts))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GateFileError, match="damaged or cut off"):
        read_gates(path)
    with pytest.raises(FileNotFoundError, match=r"no gate file"):
        read_gates(tmp_path / "absent.safetensors")


def test_a_gate_that_is_not_its_manifests_is_refused(pipe, tmp_path):
    part = gates_for(pipe, GateConfig())
    path = tmp_path / "gate.safetensors"
    save_file(to_tensors(part.gates, part.sites), path, metadata_of(part.gates, part.concepts))
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    read_gates(path)
    flipped = bytearray(path.read_bytes())
    flipped[-7] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(GateFileError, match="sha256 differs"):
        Eraser.load(tmp_path)


def test_a_gate_file_without_a_projection_is_refused(pipe, tmp_path):
    part = gates_for(pipe, GateConfig())
    tensors = to_tensors(part.gates, part.sites)
    lost = next(name for name in tensors if name.endswith("lora_up.weight"))
    del tensors[lost]
    save_file(tensors, tmp_path / "gate.safetensors", metadata_of(part.gates, part.concepts))
    with pytest.raises(GateFileError, match=lost):
        read_gates(tmp_path / "gate.safetensors")

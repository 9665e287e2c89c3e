"""Attaching gates to a pipeline: exact, reversible, and never stale."""

import hashlib
import json
import weakref

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import plain
from cpe.methods.pinpoint import scoring
from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.storage.checks import GateFileError
from cpe.methods.pinpoint.storage.files import LoadedGates, metadata_of, read_gates, to_tensors
from cpe.models.reused import kept_outputs, prompt_cache
from cpe.models.sites import find_projections
from cpe.models.text import encode_prompts
from helpers.small import as_plain
from helpers.tiny import eraser_for, gates_for, tiny_pipeline


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


def test_residual_energy_is_the_share_of_what_projections_say(pipe):
    eraser = eraser_for(pipe)
    text = encode_prompts(pipe, ["a tiger", "a bus in the rain"])
    added = own = torch.zeros(2, dtype=torch.float64)
    for site, module in find_projections(pipe.unet).items():
        added = added + eraser.residuals(text)[site].double().square().sum(dim=(1, 2))
        own = own + (text.double() @ module.weight.double().T).square().sum(dim=(1, 2))
    energy = eraser.residual_energy(pipe, text)
    assert (energy > 0).all()
    torch.testing.assert_close(energy, added / own, rtol=1e-5, atol=0)


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


@pytest.fixture
def site(pipe):
    """One projection's path and module, whose weight a test may change."""
    name, module = next(iter(find_projections(pipe.unet).items()))
    weight = module.weight.detach().clone()
    yield name, module
    module.weight, module.bias = torch.nn.Parameter(weight), None


def fresh_output(eraser, site, text):
    name, module = site
    residual = eraser.residuals(text)[name]
    return torch.nn.functional.linear(text, module.weight, module.bias) + residual


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("through_data", [False, True])
def test_a_text_changed_in_place_is_noticed(pipe, site, inference, through_data):
    eraser = eraser_for(pipe)
    text = encode_prompts(pipe, ["a tiger"])
    with torch.inference_mode(inference), torch.no_grad(), eraser.attached(pipe):
        if inference:
            text = text.clone()
        site[1](text)
        (text.data if through_data else text).mul_(0.5)
        torch.testing.assert_close(site[1](text), fresh_output(eraser, site, text))


WEIGHT_CHANGES = {
    "in place": lambda module: module.weight.mul_(2),
    "through data": lambda module: module.weight.data.mul_(2),
    "one element through data": lambda module: module.weight.data[3, 4].add_(1),
    "rows swapped through data": lambda module: module.weight.data.copy_(module.weight.flip(0)),
    "signs through data": lambda module: module.weight.data.neg_(),
    "other data": lambda module: setattr(module.weight, "data", module.weight.data * 2),
    "another parameter": lambda module: setattr(module, "weight", torch.nn.Parameter(module.weight * 2)),
    "loaded": lambda module: module.load_state_dict({"weight": module.weight * 2}),
}


@pytest.mark.parametrize("change", WEIGHT_CHANGES.values(), ids=WEIGHT_CHANGES.keys())
@pytest.mark.parametrize("inference", [False, True])
def test_changed_weights_are_noticed_for_the_very_same_text(pipe, site, change, inference):
    eraser, text = eraser_for(pipe), encode_prompts(pipe, ["a tiger"])
    with torch.inference_mode(inference), torch.no_grad(), eraser.attached(pipe):
        before = site[1](text)
        assert site[1](text) is before, "unchanged, the output is reused"
        with torch.inference_mode(False), torch.no_grad():
            change(site[1])
        expected = fresh_output(eraser, site, text)
        assert not torch.equal(expected, before)
        torch.testing.assert_close(site[1](text), expected)


def test_a_changed_bias_is_noticed_for_the_very_same_text(pipe, site):
    eraser, text = eraser_for(pipe), encode_prompts(pipe, ["a tiger"])
    site[1].bias = torch.nn.Parameter(torch.zeros(len(site[1].weight)))
    with torch.no_grad(), eraser.attached(pipe):
        site[1](text)
        site[1].bias.data.add_(1)
        torch.testing.assert_close(site[1](text), fresh_output(eraser, site, text))


@pytest.mark.parametrize("change", ["in place", "other data", "another parameter", "loaded"])
def test_where_weights_are_not_compared_counted_changes_are_still_noticed(pipe, site, monkeypatch, change):
    monkeypatch.setattr(kept_outputs, "_checksum", lambda weight: None)
    eraser, text = eraser_for(pipe), encode_prompts(pipe, ["a tiger"])
    with torch.no_grad(), eraser.attached(pipe):
        site[1](text)
        WEIGHT_CHANGES[change](site[1])
        torch.testing.assert_close(site[1](text), fresh_output(eraser, site, text))


def test_where_weights_are_not_compared_another_precision_is_still_noticed(pipe, site, monkeypatch):
    monkeypatch.setattr(kept_outputs, "_checksum", lambda weight: None)
    eraser, text = eraser_for(pipe), encode_prompts(pipe, ["a tiger"])
    with torch.no_grad(), eraser.attached(pipe):
        site[1](text)
        with torch.autocast("cpu", torch.bfloat16):
            assert site[1](text).dtype == torch.bfloat16


def test_where_weights_are_not_compared_a_fused_lora_is_still_noticed(pipe, site, monkeypatch):
    """Accelerators do not compare weights; the U-Net's own fusing of LoRA says that they changed."""
    monkeypatch.setattr(kept_outputs, "_checksum", lambda weight: None)
    eraser, text = eraser_for(pipe), encode_prompts(pipe, ["a tiger"])
    for fuse in ("fuse_lora", "unfuse_lora"):
        monkeypatch.setattr(type(pipe.unet), fuse, lambda unet: site[1].weight.data.mul_(2))
    with torch.no_grad(), eraser.attached(pipe):
        for fuse in (pipe.unet.fuse_lora, pipe.unet.unfuse_lora):
            site[1](text)
            fuse()
            torch.testing.assert_close(site[1](text), fresh_output(eraser, site, text))


def test_an_output_changed_in_place_by_its_user_is_not_reused(pipe, site):
    eraser, text = eraser_for(pipe), encode_prompts(pipe, ["a tiger"])
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), eraser.attached(pipe):
            expected = site[1](text).clone()
            site[1](text).add_(1)
            assert torch.equal(site[1](text), expected)


@pytest.mark.parametrize("width", [32, 31])
def test_bits_are_compared_wherever_a_tensor_lies_in_memory(width):
    whole = torch.randn(3 * width + 1, generator=torch.Generator().manual_seed(0)).half()
    for start in (0, 1):
        part = whole[start:][: 3 * width].view(3, width)
        words = kept_outputs.bits_of(part)
        assert torch.equal(words, kept_outputs.bits_of(part.clone()))
        changed = part.clone()
        changed[1, 2] += 1
        assert not torch.equal(words, kept_outputs.bits_of(changed))


def test_a_wrapped_forward_of_unknown_effect_is_called_every_step(pipe, site):
    eraser, text, calls = eraser_for(pipe), encode_prompts(pipe, ["a tiger"]), []
    original = site[1].forward
    site[1].forward = lambda text: original(text) + len(calls)
    try:
        with torch.no_grad(), eraser.attached(pipe):
            first = site[1](text)
            calls.append(1)
            torch.testing.assert_close(site[1](text), first + 1)
    finally:
        del site[1].forward


def test_outputs_go_with_their_text_and_few_residuals_are_kept(pipe, site, monkeypatch):
    eraser, computed = eraser_for(pipe), []
    compute = eraser.residuals
    monkeypatch.setattr(eraser, "residuals", lambda text: computed.append(1) or compute(text))
    texts = [torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(9)]
    with torch.no_grad(), eraser.attached(pipe):
        passing = texts[0].clone()
        output = weakref.ref(site[1](passing))
        assert output() is not None
        del passing
        assert output() is None
        for text in texts:
            site[1](text)
        assert len(computed) == 9
        for text in texts[-prompt_cache.PROMPTS_KEPT :]:
            site[1](text.clone())
        assert len(computed) == 9
        site[1](texts[0])
        assert len(computed) == 10, "older ones are computed again"
        monkeypatch.setattr(prompt_cache, "RESIDUALS_MIB", 0)
        for text in (texts[1], texts[1], texts[2], texts[1]):
            site[1](text)
        assert len(computed) == 13, "with no room only the newest stays"


def test_under_autocast_residuals_are_still_computed_in_float32(pipe, site):
    eraser, text = eraser_for(pipe), encode_prompts(pipe, ["a tiger"])
    residual = eraser.residuals(text)[site[0]]
    with torch.no_grad(), eraser.attached(pipe):
        for enabled in (True, False, True):  # the same text, met in another precision
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                got = site[1](text)
                base = torch.nn.functional.linear(text, site[1].weight)
                assert torch.equal(eraser.residuals(text)[site[0]], residual)
            assert torch.equal(got, base + residual.to(base.dtype))


def test_detaching_leaves_a_wrapper_that_came_later(pipe, site):
    eraser, other, text = eraser_for(pipe), eraser_for(pipe, seed=1), encode_prompts(pipe, ["a tiger"])
    with torch.no_grad():
        base = torch.nn.functional.linear(text, site[1].weight)
        eraser.attach(pipe)
        erased = site[1].forward
        site[1].forward = lambda text: 2 * erased(text)
        wrapper = site[1].forward
        try:
            eraser.detach()
            assert site[1].forward is wrapper
            assert torch.equal(site[1](text), 2 * base)
            with other.attached(pipe):
                expected = 2 * base + other.residuals(text)[site[0]]
                torch.testing.assert_close(site[1](text), expected)
            assert site[1].forward is wrapper
        finally:
            del site[1].forward


@pytest.mark.parametrize("pairs", [1, 3, 7, 1000])
def test_residuals_do_not_depend_on_how_many_gates_are_scored_at_a_time(pipe, monkeypatch, pairs):
    configs = [GateConfig(gate_rank=3, alpha=0.5), GateConfig(gate_rank=5, adapter_rank=2, tied_qk=False)]
    parts = [gates_for(pipe, config, count=11, seed=seed) for seed, config in enumerate(configs)]
    parts = [LoadedGates(p.concepts, p.sites, p.gates.map(torch.Tensor.double)) for p in parts]
    text = torch.randn(3, 8, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    monkeypatch.setattr(scoring, "PAIRS_AT_ONCE", pairs)
    eraser = Eraser(parts)
    gates = [(as_plain(p.gates, n), p.gates.config) for p in parts for n in range(11)]
    opened = torch.stack([plain.openness(text, gate, tied=c.tied_qk)[0] for gate, c in gates])  # (N, B, T, 1)
    torch.testing.assert_close(eraser.openness(text), opened[..., 0])
    got = eraser.residuals(text)
    for place, name in enumerate(eraser.sites):
        own = torch.stack([plain.residual(text, g, place, alpha=c.alpha, tied=c.tied_qk) for g, c in gates])
        expected = own.gather(0, opened.argmax(dim=0, keepdim=True).expand(1, *own.shape[1:]))[0]
        torch.testing.assert_close(got[name], expected, rtol=1e-9, atol=1e-12)


def test_adapters_are_fetched_for_winners_alone(pipe, monkeypatch):
    eraser, text = Eraser([gates_for(pipe, GateConfig(gate_rank=4), count=9)]), encode_prompts(pipe, ["a tiger"])
    winners = eraser.openness(text).argmax(dim=0).unique().tolist()
    assert 1 < len(winners) < 9, "the case needs several winners, and gates that win nothing"
    fetched, fetch = set(), scoring.Winners.adapter
    monkeypatch.setattr(scoring.Winners, "adapter", lambda *given: fetched.add(given[1]) or fetch(*given))
    eraser.residuals(text)
    assert sorted(fetched) == winners


def test_a_gate_with_broken_numbers_is_not_passed_over(pipe):
    part = gates_for(pipe, GateConfig(gate_rank=4), count=3)
    part.gates.score[1] = torch.nan
    residuals = Eraser([part]).residuals(encode_prompts(pipe, ["a tiger"]))
    assert all(residual.isnan().all() for residual in residuals.values())


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
    eraser, before = eraser_for(pipe), draw(pipe, ["a tiger"])
    pipe.fuse_qkv_projections()
    with pytest.raises(ValueError, match="unfuse_qkv_projections"):
        eraser.attach(pipe)
    pipe.unfuse_qkv_projections()  # as the message says
    with eraser.attached(pipe):
        assert not torch.allclose(draw(pipe, ["a tiger"]), before)


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

"""What other tools do to a U-Net, before or after attaching, leaves it erased: compilers, offloading, LoRA, fusing."""

from functools import cache

import accelerate
import pytest
import torch

from cpe.models.sites import find_projections
from helpers.tiny import by_reference, draw_variant, eraser_for, tiny_variant

LOOSER = {"rtol": 1e-4, "atol": 1e-4}  # the same sum in another order, amplified by guidance


@pytest.fixture(scope="module")
def shared():
    return tiny_variant("text")


@pytest.fixture
def pipe():
    return tiny_variant("text")


@pytest.mark.parametrize(
    ("backend", "whole", "attach_first"),
    [
        ("eager", True, True),
        pytest.param("eager", True, False, marks=pytest.mark.slow),
        ("eager", False, False),
        pytest.param("aot_eager", True, False, marks=pytest.mark.slow),
    ],
)
def test_compiled_unets_erase_like_the_reference_in_one_graph(shared, pipe, backend, whole, attach_first):
    eraser = eraser_for(shared)
    texts = ["a tiger", "a rose"]
    plain = draw_variant(shared)
    expected = [by_reference(shared, eraser, prompt=text) for text in texts]

    def compile_it():
        if whole:
            pipe.unet = torch.compile(pipe.unet, backend=backend, fullgraph=True)
        else:
            pipe.unet.compile_repeated_blocks(backend=backend, fullgraph=True)
        if not attach_first:
            torch.testing.assert_close(draw_variant(pipe), plain)

    if not attach_first:
        compile_it()
    with eraser.attached(pipe):
        if attach_first:
            compile_it()
        for text, picture in zip(texts, expected, strict=True):  # another prompt, the same graph
            torch.testing.assert_close(draw_variant(pipe, prompt=text), picture)
    torch.testing.assert_close(draw_variant(pipe), plain)
    torch.compiler.reset()


def offload_weights(pipe):
    accelerate.cpu_offload(pipe.unet, execution_device="cpu")


def offload_model(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


def offload_groups(pipe):
    cpu = torch.device("cpu")
    pipe.unet.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


@pytest.mark.parametrize("offload", [offload_weights, offload_model, offload_groups])
@pytest.mark.parametrize("attach_first", [True, False])
def test_offloaded_weights_erase_like_the_reference(shared, pipe, offload, attach_first):
    eraser, plain = eraser_for(shared), draw_variant(shared)
    expected = by_reference(shared, eraser)
    if not attach_first:
        offload(pipe)
    with eraser.attached(pipe):
        if attach_first:
            offload(pipe)
        for _ in range(2):
            torch.testing.assert_close(draw_variant(pipe), expected)
    assert torch.equal(draw_variant(pipe), plain), "the hooks still bring the weights"
    inside = [vars(module).get("_old_forward") for module in find_projections(pipe.unet).values()]
    assert all(forward is None or forward.__func__ is torch.nn.Linear.forward for forward in inside)


@pytest.mark.parametrize("attach_first", [True, False])
def test_taking_offload_hooks_off_does_not_take_the_residuals_off(shared, pipe, attach_first):
    eraser = eraser_for(shared)
    if not attach_first:
        offload_weights(pipe)
    with eraser.attached(pipe):
        if attach_first:
            offload_weights(pipe)
        accelerate.hooks.remove_hook_from_submodules(pipe.unet)
        torch.testing.assert_close(draw_variant(pipe), by_reference(shared, eraser))
    assert torch.equal(draw_variant(pipe), draw_variant(shared))


def load_lora(pipe, seed=0, name="styled"):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for site, module in find_projections(pipe.unet).items():
        width, text_width = module.weight.shape
        tensors[f"unet.{site}.lora_A.weight"] = torch.randn(2, text_width, generator=generator) * 0.3
        tensors[f"unet.{site}.lora_B.weight"] = torch.randn(width, 2, generator=generator) * 0.3
    pipe.load_lora_weights(tensors, adapter_name=name)


@cache
def with_lora(scale=1.0):
    """Returns the reference picture of a fresh pipeline with the LoRA, erased by the eraser of all these tests."""
    pipe = tiny_variant("text")
    load_lora(pipe)
    pipe.set_adapters(["styled"], [scale])
    return by_reference(pipe, eraser_for(tiny_variant("text")))


@pytest.mark.parametrize("load_first", [True, False])
def test_a_lora_on_the_same_projections_erases_like_the_reference(shared, pipe, load_first):
    eraser = eraser_for(shared)
    bare, styled = by_reference(shared, eraser), with_lora()
    assert (bare - styled).abs().max() > 0.05, "the LoRA must change the picture"
    if load_first:
        load_lora(pipe)
    with eraser.attached(pipe):
        if not load_first:
            torch.testing.assert_close(draw_variant(pipe), bare)
            load_lora(pipe)
        torch.testing.assert_close(draw_variant(pipe), styled, **LOOSER)
        pipe.unload_lora_weights()
        torch.testing.assert_close(draw_variant(pipe), bare)
    assert torch.equal(draw_variant(pipe), draw_variant(shared))


@pytest.mark.parametrize("load_first", [True, False])
def test_a_changed_lora_scale_is_never_met_by_an_old_output(shared, pipe, load_first):
    eraser = eraser_for(shared)
    if load_first:
        load_lora(pipe)
    with eraser.attached(pipe):
        if not load_first:
            load_lora(pipe)
        for scale in (1.0, 0.2, 1.0):
            pipe.set_adapters(["styled"], [scale])
            torch.testing.assert_close(draw_variant(pipe), with_lora(scale), **LOOSER)
        pipe.set_adapters(["styled"], [1.0])
        got = draw_variant(pipe, cross_attention_kwargs={"scale": 0.4})
        torch.testing.assert_close(got, with_lora(0.4), **LOOSER)


@pytest.mark.parametrize("load_first", [True, False])
@pytest.mark.parametrize("unload", [True, False])
def test_a_lora_fused_between_two_calls_is_never_met_by_an_old_output(shared, pipe, load_first, unload):
    eraser = eraser_for(shared)
    bare, styled = by_reference(shared, eraser), with_lora()
    if load_first:
        load_lora(pipe)
        pipe.disable_lora()
    with eraser.attached(pipe):
        torch.testing.assert_close(draw_variant(pipe), bare)
        if load_first:
            pipe.enable_lora()
        else:
            load_lora(pipe)
        pipe.fuse_lora()
        if unload:
            pipe.unload_lora_weights()
        torch.testing.assert_close(draw_variant(pipe), styled, **LOOSER)
        if not unload:
            pipe.unfuse_lora()
            pipe.disable_lora()
            torch.testing.assert_close(draw_variant(pipe), bare, **LOOSER)


def unet_alone(pipe):
    pipe.unet.fuse_qkv_projections()


def one_attention(pipe):
    next(module for name, module in pipe.unet.named_modules() if name.endswith("attn2")).fuse_projections()


def whole_pipeline(pipe):
    pipe.fuse_qkv_projections()


@pytest.mark.parametrize("fuse", [whole_pipeline, unet_alone, one_attention])
def test_fusing_while_attached_is_refused_and_leaves_nothing_fused(shared, pipe, fuse):
    eraser = eraser_for(pipe)
    expected = by_reference(shared, eraser)
    torch.testing.assert_close(by_reference(pipe, eraser), expected)
    before, processors = set(vars(pipe)), pipe.unet.attn_processors
    with eraser.attached(pipe):
        with pytest.raises(RuntimeError, match="detach the eraser first"):
            fuse(pipe)
        attentions = [module for module in pipe.unet.modules() if hasattr(module, "fused_projections")]
        assert not any(module.fused_projections or hasattr(module, "to_kv") for module in attentions)
        assert not any(hasattr(module, "to_qkv") for module in attentions)
        assert pipe.unet.attn_processors == processors
        torch.testing.assert_close(draw_variant(pipe), expected)
    assert set(vars(pipe)) == before
    assert not any(name.startswith("fuse") for name in vars(pipe.unet))
    fuse(pipe)
    assert any(module.fused_projections for module in attentions)
    if fuse is not one_attention:
        with pytest.raises(ValueError, match="are fused"):
            eraser.attach(pipe)


def test_a_pipeline_may_fuse_its_vae_while_attached(pipe):
    with eraser_for(pipe).attached(pipe):
        pipe.fuse_qkv_projections(unet=False)
    assert pipe.fusing_vae
    assert not pipe.fusing_unet

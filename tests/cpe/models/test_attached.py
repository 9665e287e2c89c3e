"""Attached means erased: whatever would pass the gates by raises, copies carry their own, and anyone can detach."""

import copy
import gc
import io
import pickle

import pytest
import torch
from diffusers import AnimateDiffPipeline, ControlNetModel, MotionAdapter
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

import cpe
from cpe.models.sites import find_projections
from helpers.tiny import by_reference, draw_variant, eraser_for, tiny_pipeline, tiny_variant

SITE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"


@pytest.fixture
def pipe():
    return tiny_pipeline()


class DoubledLinear(nn.Linear):
    """Another class with the same weights, as a quantiser puts in: not what was attached to."""

    @classmethod
    def of(cls, linear):
        new = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        new.load_state_dict({name: value.detach() for name, value in linear.named_parameters()})
        return new


def set_module(network, path, module):
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def replace_one(pipe):
    set_module(pipe.unet, SITE, DoubledLinear.of(pipe.unet.get_submodule(SITE)))


def replace_all(pipe):
    for path, module in find_projections(pipe.unet).items():
        set_module(pipe.unet, path, DoubledLinear.of(module))


def replace_block(pipe):
    pipe.unet.mid_block = tiny_pipeline().unet.mid_block


def replace_network(pipe):
    pipe.unet = tiny_pipeline().unet


def replace_in_compiled(pipe):
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    replace_all(pipe)


REPLACEMENTS = [replace_one, replace_all, replace_block, replace_network, replace_in_compiled]


@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_a_projection_or_network_replaced_while_attached_raises_with_the_order_that_works(pipe, replace):
    eraser, unet = eraser_for(pipe), pipe.unet
    with eraser.attached(pipe):
        replace(pipe)
        with pytest.raises(RuntimeError, match=r"draw what was erased: first quantise, replace or build, then attach"):
            draw_variant(pipe)
    cpe.detach(pipe)
    assert not any(isinstance(value, cpe.models.patches.Patch) for value in vars(pipe).values())
    pipe.unet = unet if replace is replace_in_compiled else pipe.unet
    expected = by_reference(pipe, eraser)
    with eraser.attached(pipe):  # the order that works
        torch.testing.assert_close(draw_variant(pipe), expected)
    torch.compiler.reset()


def test_embeddings_given_to_a_pipeline_with_another_network_raise_too(pipe):
    with torch.no_grad():
        text = pipe.encode_prompt("a tiger", "cpu", 1, False)[0]
    with eraser_for(pipe).attached(pipe):
        pipe.unet = tiny_pipeline().unet
        with pytest.raises(RuntimeError, match="another one than the eraser was attached to"):
            draw_variant(pipe, prompt=None, prompt_embeds=text, guidance_scale=1.0)


def test_a_projection_whose_forward_was_put_back_raises(pipe):
    module = pipe.unet.get_submodule(SITE)
    with eraser_for(pipe).attached(pipe):
        draw_variant(pipe)
        forward = vars(module).pop("forward")
        with pytest.raises(RuntimeError, match="passed by 1 of"):
            draw_variant(pipe)
        vars(module)["forward"] = forward
        draw_variant(pipe)


class OwnProjections(AttnProcessor2_0):
    """A processor that computes keys and values past to_k and to_v, as fused ones of any kind do."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **options):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        key, value = (nn.functional.linear(text, part.weight) for part in (attn.to_k, attn.to_v))
        heads = [t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (query, key, value)]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return attn.to_out[0](mixed)


@pytest.mark.parametrize("attach_first", [True, False])
def test_whatever_computes_keys_and_values_past_the_projections_raises(pipe, attach_first):
    eraser = eraser_for(pipe)
    if not attach_first:
        pipe.unet.set_attn_processor(OwnProjections())
    with eraser.attached(pipe):
        if attach_first:
            draw_variant(pipe)
            pipe.unet.set_attn_processor(OwnProjections())
        with pytest.raises(RuntimeError, match="OwnProjections"):
            draw_variant(pipe)
        pipe.unet.set_attn_processor(AttnProcessor2_0())
        picture = draw_variant(pipe)
    torch.testing.assert_close(picture, by_reference(tiny_pipeline(), eraser))


def test_an_attention_left_out_after_the_first_step_is_no_fault(pipe):
    """Tools that cache features skip blocks in later steps, with what the erased ones gave."""
    with eraser_for(pipe).attached(pipe), torch.no_grad():
        text, sample = torch.randn(1, 77, 32), torch.randn(1, 4, 8, 8)
        pipe.unet(sample, 5, text)
        block = pipe.unet.mid_block
        block.forward = lambda hidden, *args, **kwargs: hidden
        pipe.unet(sample, 4, text)
        del block.forward


def test_an_animatediff_pipeline_built_from_an_erased_network_is_refused_and_erases_once_attached(pipe):
    adapter = MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=4
    )
    parts = {name: part for name, part in pipe.components.items() if name not in ("safety_checker",)}
    eraser = eraser_for(pipe)
    with eraser.attached(pipe):
        with pytest.raises(RuntimeError, match="attach to what was built"):
            AnimateDiffPipeline(**parts, motion_adapter=adapter)
    video = AnimateDiffPipeline(**parts, motion_adapter=adapter)
    assert set(find_projections(video.unet)) == set(find_projections(pipe.unet)), "no temporal attention among them"
    video.set_progress_bar_config(disable=True)
    options = {"height": 16, "width": 16, "num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}

    def draw():
        return video("a tiger", num_frames=2, generator=torch.Generator().manual_seed(0), **options).frames

    before = draw()
    with eraser.attached(video):
        assert not torch.allclose(draw(), before)
    assert torch.equal(draw(), before)


def test_a_controlnet_is_built_before_attaching(pipe):
    with eraser_for(pipe).attached(pipe), pytest.raises(RuntimeError, match="copied out of a network"):
        ControlNetModel.from_unet(pipe.unet)
    ControlNetModel.from_unet(pipe.unet)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda unet: pickle.loads(pickle.dumps(unet)),
}


def saved(unet):
    buffer = io.BytesIO()
    torch.save(unet, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [*COPIES.values(), saved], ids=[*COPIES, "torch.save"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_of_an_attached_network_has_its_own_weights_and_its_own_erasure(pipe, copied, dtype):
    pipe.to(dtype)
    eraser, plain, text = eraser_for(pipe), draw_variant(pipe), torch.randn(1, 77, 32, dtype=dtype)
    with eraser.attached(pipe):
        expected = draw_variant(pipe)
        twin = copied(pipe.unet)
    other = tiny_pipeline().to(dtype)
    other.unet = twin
    assert torch.equal(draw_variant(other), expected), "it stays erased when the original no longer is"
    assert torch.equal(draw_variant(pipe), plain)
    with torch.no_grad():
        for module in twin.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(3)
        residual = eraser.residuals(text)[SITE]
        tripled = nn.functional.linear(text, twin.get_submodule(SITE).weight) + residual
        assert torch.equal(twin.get_submodule(SITE)(text), tripled), "its own weights"
        with pytest.raises(RuntimeError, match="another eraser is attached"):
            eraser.attach(twin)
        cpe.detach(twin)
        base = nn.functional.linear(text, twin.get_submodule(SITE).weight)
        assert torch.equal(twin.get_submodule(SITE)(text), base)
    eraser.attach(twin)
    eraser.detach()


def test_a_copy_of_an_attached_pipeline_is_erased_and_checked_by_itself(pipe):
    eraser, plain = eraser_for(pipe), draw_variant(pipe)
    with eraser.attached(pipe):
        expected, twin = draw_variant(pipe), copy.deepcopy(pipe)
    assert torch.equal(draw_variant(twin), expected)
    network, twin.unet = twin.unet, tiny_pipeline().unet
    with pytest.raises(RuntimeError, match="another one than the eraser was attached to"):
        draw_variant(twin)
    twin.unet = network
    cpe.detach(twin)
    assert torch.equal(draw_variant(twin), plain)
    assert set(vars(twin)) == set(vars(pipe))


def test_copies_share_the_gates_and_never_a_compiled_residual(pipe):
    eraser, text = eraser_for(pipe), torch.randn(1, 77, 32)
    with eraser.attached(pipe):
        twin = copy.deepcopy(pipe.unet)
    ours = vars(twin)[cpe.models.attachment.ATTRIBUTE]
    assert ours.cache._source is eraser
    module = twin.get_submodule(SITE)
    with torch.no_grad():
        compiled = torch.compile(lambda x: module(x), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(text), module(text))
    torch.compiler.reset()


def test_whoever_holds_the_pipeline_can_detach_without_the_eraser(pipe):
    plain = draw_variant(pipe)
    before = set(vars(pipe)), {name: set(vars(module)) for name, module in pipe.unet.named_modules()}
    eraser_for(pipe).attach(pipe)
    gc.collect()
    assert not torch.allclose(draw_variant(pipe), plain), "nobody holds the eraser, and the pipeline stays erased"
    with pytest.raises(RuntimeError, match=r"cpe\.detach\(pipe\)"):
        eraser_for(pipe, seed=1).attach(pipe)
    cpe.detach(pipe)
    cpe.detach(pipe)
    assert torch.equal(draw_variant(pipe), plain)
    assert before == (set(vars(pipe)), {name: set(vars(module)) for name, module in pipe.unet.named_modules()})
    assert not pipe.unet._forward_hooks
    assert not pipe.unet._forward_pre_hooks


def test_an_eraser_taken_off_by_another_hand_can_be_attached_again(pipe):
    eraser = eraser_for(pipe)
    eraser.attach(pipe)
    cpe.detach(pipe.unet)
    with eraser.attached(pipe):
        torch.testing.assert_close(draw_variant(pipe), by_reference(tiny_pipeline(), eraser))


@pytest.mark.parametrize("part", ["pipeline", "network"])
def test_saving_while_erased_warns_and_names_the_way(pipe, part, tmp_path):
    saving = pipe if part == "pipeline" else pipe.unet
    with eraser_for(pipe).attached(pipe):
        with pytest.warns(UserWarning, match=r"untouched model.*Eraser\.load\(gates\)\.attach\(pipe\)"):
            saving.save_pretrained(tmp_path)
    saving.save_pretrained(tmp_path)  # says nothing now


def test_projections_with_a_bias_are_computed_once_a_prompt(pipe):
    module, given = pipe.unet.get_submodule(SITE), []
    module.bias = nn.Parameter(torch.randn(module.out_features))
    eraser, text = eraser_for(pipe), torch.randn(1, 77, 32)
    with torch.no_grad(), eraser.attached(pipe):
        given = [module(text), module(text)]
        assert given[0] is given[1]
        expected = nn.functional.linear(text, module.weight, module.bias) + eraser.residuals(text)[SITE]
        torch.testing.assert_close(given[0], expected)
        for change in (lambda b: b.data.add_(1), lambda b: b.data.copy_(b.flip(0)), lambda b: b.mul_(2)):
            change(module.bias)
            expected = nn.functional.linear(text, module.weight, module.bias) + eraser.residuals(text)[SITE]
            torch.testing.assert_close(module(text), expected)
        module.bias = None
        torch.testing.assert_close(
            module(text), nn.functional.linear(text, module.weight) + eraser.residuals(text)[SITE]
        )


def test_a_pipeline_that_shares_the_network_is_erased_and_may_change_its_own_parts(pipe):
    eraser = eraser_for(pipe)
    with eraser.attached(pipe):
        image = tiny_variant("image")
        image.unet = pipe.unet
        erased = draw_variant(image, kind="image")
    assert not torch.allclose(draw_variant(image, kind="image"), erased)

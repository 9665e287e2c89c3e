"""Edits with a change of its own in each layer: their file, what they do to a network, and what is refused."""

import copy
import json

import pytest
import torch
from diffusers.models.attention_processor import FusedAttnProcessor2_0
from safetensors.torch import save_file

from cpe.methods.weights import EditError, LayerEdit, read_edit, read_layers
from helpers.tiny import tiny_pipeline, tiny_variant

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"
PATHS = [f"{ATTENTION}.attn2.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]
PATHS += [f"{ATTENTION}.attn1.to_q", f"{ATTENTION}.ff.net.2", "conv_in", "down_blocks.0.resnets.0.time_emb_proj"]


def edit_for(network, paths=PATHS, seed=0):
    generator, state = torch.Generator().manual_seed(seed), network.state_dict()
    deltas = {path: 0.1 * torch.randn(state[f"{path}.weight"].shape, generator=generator) for path in paths}
    return LayerEdit(["cat", "dog"], deltas)


def kept(edit, file, **metadata):
    tensors = {f"delta.{path}": delta for path, delta in edit.deltas.items()}
    save_file(tensors, file, {"method": "speed", "concepts": json.dumps(edit.concepts), **metadata})
    return file


@pytest.mark.parametrize("kind", ["text", "xl"])
def test_attached_each_layer_has_its_own_change_and_detached_what_it_was_bit_for_bit(kind):
    pipe = tiny_variant(kind)
    paths = [path for path in PATHS if f"{path}.weight" in pipe.unet.state_dict()]
    edit, before = edit_for(pipe.unet, paths), copy.deepcopy(pipe.unet.state_dict())
    with edit.attached(pipe):
        for name, value in pipe.unet.state_dict().items():
            path = name.removesuffix(".weight")
            wanted = before[name] + edit.deltas[path] if path in edit.deltas else before[name]
            assert torch.equal(value, wanted), name
            assert (path in edit.deltas) == (not torch.equal(value, before[name])), name
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


def test_detached_a_half_precision_network_is_what_it_was_bit_for_bit():
    pipe = tiny_pipeline()
    edit = edit_for(pipe.unet)
    pipe.unet.half()
    before = copy.deepcopy(pipe.unet.state_dict())
    with edit.attached(pipe):
        name = f"{PATHS[0]}.weight"
        assert torch.equal(pipe.unet.state_dict()[name], (before[name].float() + edit.deltas[PATHS[0]]).half())
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


def test_a_bias_changes_too_and_comes_off_bit_for_bit():
    pipe, path = tiny_pipeline(), f"{ATTENTION}.attn2.to_out.0"
    before = copy.deepcopy(pipe.unet.state_dict())
    edit = LayerEdit(["cat"], {f"{path}.bias": torch.arange(16.0)})
    with edit.attached(pipe):
        changed = {name for name, value in pipe.unet.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {f"{path}.bias"}
        assert torch.equal(pipe.unet.get_submodule(path).bias, before[f"{path}.bias"] + torch.arange(16.0))
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    with pytest.raises(ValueError, match=r"attn2\.to_k of UNet2DConditionModel has no bias"):
        LayerEdit(["cat"], {f"{ATTENTION}.attn2.to_k.bias": torch.ones(16)}).attach(pipe)
    edit.attach(pipe)
    moved = pipe.unet.get_submodule(path)
    moved.bias = torch.nn.Parameter(moved.bias.detach().clone())
    with pytest.raises(RuntimeError, match=r"to_out\.0\.bias and 0 more were replaced"):
        edit.detach()


def test_a_file_gives_back_what_was_written(tmp_path):
    edit = edit_for(tiny_pipeline().unet)
    found = read_layers([kept(edit, tmp_path / "layers.safetensors")])
    assert found.concepts == edit.concepts
    assert found.deltas.keys() == edit.deltas.keys()
    assert all(torch.equal(found.deltas[path], delta) for path, delta in edit.deltas.items())


def test_a_layer_that_is_not_there_or_of_another_shape_is_refused_and_nothing_is_changed():
    pipe = tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    for path in ("down_blocks.7.resnets.0.conv1", "conv_in.weight", f"{ATTENTION}.attn2.to_z"):
        with pytest.raises(EditError, match=r"changes .*, which UNet2DConditionModel does not have"):
            LayerEdit(["cat"], {PATHS[0]: torch.zeros(16, 16), path: torch.zeros(3, 3)}).attach(pipe)
    for path, delta in ((PATHS[0], torch.ones(16, 15)), (PATHS[0], torch.ones(16)), ("conv_in", torch.ones(16, 4))):
        with pytest.raises(EditError, match=r"the pipeline's weight is of \(16, "):
            LayerEdit(["cat"], {PATHS[0]: torch.ones(16, 16), path: delta}).attach(pipe)
    for path in ("conv_norm_out", ATTENTION, ""):
        with pytest.raises(ValueError, match="neither a projection nor a convolution"):
            LayerEdit(["cat"], {path: torch.ones(16)}).attach(pipe)
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    edit_for(pipe.unet).attach(pipe)  # nothing of the refused ones was left on it


def test_a_fused_attention_would_pass_the_change_by_and_is_refused():
    pipe = tiny_pipeline()
    pipe.unet.get_submodule(f"{ATTENTION}.attn1").fuse_projections()
    pipe.unet.get_submodule(f"{ATTENTION}.attn1").set_processor(FusedAttnProcessor2_0())
    with pytest.raises(EditError, match=r"attn1\.to_q is fused with others"):
        edit_for(pipe.unet).attach(pipe)


def test_files_that_cannot_be_used_say_why(tmp_path):
    file, edit = tmp_path / "layers.safetensors", edit_for(tiny_pipeline().unet)
    kept(edit, file, concepts="[]")
    with pytest.raises(EditError, match="names no concepts"):
        read_layers([file])
    for bad in (torch.full((2, 2), torch.inf), torch.zeros(2, 2, dtype=torch.int64)):
        kept(LayerEdit(["cat"], {"conv_in": bad}), file)
        with pytest.raises(EditError, match=r"delta\.conv_in holds what is no finite number"):
            read_layers([file])
    for tensors in ({"text_map": torch.zeros(3, 3)}, {"delta.": torch.zeros(3, 3)}, {}):
        save_file(tensors, file, {"method": "speed", "concepts": '["cat"]'})
        with pytest.raises(EditError, match="expected changes of layers"):
            read_layers([file])
    kept(edit, file)
    with pytest.raises(EditError, match="holds no text_map"):
        read_edit([file])
    with pytest.raises(EditError, match="each for a whole list; load one of them"):
        read_layers([file, kept(edit, tmp_path / "other.safetensors", concepts='["cat"]')])
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(EditError, match="damaged or cut off"):
        read_layers([file])

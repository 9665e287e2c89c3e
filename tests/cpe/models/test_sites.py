"""A site is a projection whose input is the text: all of them are found, in every form of network, or it is refused."""

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cpe
from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.storage.checks import module_path
from cpe.methods.pinpoint.storage.files import LoadedGates, metadata_of, read_gates, to_tensors
from cpe.models.projections import BaseProjections
from cpe.models.sites import find_projections
from helpers.tiny import draw_variant, eraser_for, gates_for, tiny_pipeline

WIDTHS = {"block_out_channels": (16, 32), "norm_num_groups": 8, "attention_head_dim": 8, "cross_attention_dim": 32}


def unet(**changes):
    torch.manual_seed(0)
    options = {
        "sample_size": 8,
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        **WIDTHS,
    }
    return diffusers.UNet2DConditionModel(**{**options, **changes}).eval()


def video_unet():
    return diffusers.UNet3DConditionModel(
        sample_size=8,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        **WIDTHS,
    ).eval()


def wan():
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    ).eval()


def read_text(network, call):
    """Returns the paths of the projections that are given the text, by calling the network."""
    seen = []
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, name=name: seen.append(name) if args[0].shape[1] == 77 else None
        )
        for name, module in network.named_modules()
        if name.rpartition(".")[2] in ("to_k", "to_v", "add_k_proj", "add_v_proj")
    ]
    with torch.no_grad():
        call(network)
    for handle in handles:
        handle.remove()
    return set(seen)


TEXT = {"encoder_hidden_states": torch.ones(1, 77, 32)}
PICTURES = {
    "plain": (unet, torch.zeros(1, 4, 8, 8)),
    "only cross-attention": (lambda: unet(only_cross_attention=True), torch.zeros(1, 4, 8, 8)),
    "only cross-attention in one block": (lambda: unet(only_cross_attention=(True, False)), torch.zeros(1, 4, 8, 8)),
    "mid block alone": (lambda: unet(mid_block_only_cross_attention=True), torch.zeros(1, 4, 8, 8)),
    "two layers a block": (lambda: unet(transformer_layers_per_block=(1, 2)), torch.zeros(1, 4, 8, 8)),
    "text to video": (video_unet, torch.zeros(1, 4, 2, 8, 8)),
}


@pytest.mark.parametrize(("make", "sample"), PICTURES.values(), ids=PICTURES.keys())
def test_the_sites_are_the_projections_that_are_given_the_text(make, sample):
    network = make()
    assert set(find_projections(network)) == read_text(network, lambda n: n(sample, 5, **TEXT)) != set()


def test_gates_of_networks_with_only_cross_attention_train_store_and_erase_all_of_it(tmp_path):
    pipe = tiny_pipeline()
    pipe.unet = unet(only_cross_attention=True)
    part = gates_for(pipe, GateConfig(gate_rank=4))
    assert len(part.sites) > len(find_projections(unet()))
    save_file(to_tensors(part.gates, part.sites), tmp_path / "gate.safetensors", metadata_of(part.gates, part.concepts))
    assert sorted(read_gates(tmp_path / "gate.safetensors").sites) == sorted(part.sites)
    before = draw_variant(pipe)
    with Eraser([part]).attached(pipe):
        assert not torch.allclose(draw_variant(pipe), before)
    assert torch.equal(draw_variant(pipe), before)


def test_released_keys_name_both_attentions():
    for path in ("down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_k", "mid_block.attentions.0.attn2.to_v"):
        assert module_path("lora_unet_" + path.replace(".", "_")) == path


REFUSED = {
    "picture's keys beside": (
        lambda: unet(
            down_block_types=("SimpleCrossAttnDownBlock2D",) * 2,
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D",) * 2,
        ),
        "add_k_proj and add_v_proj beside the picture's own keys",
    ),
    "half beside": (
        lambda: unet(down_block_types=("CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D")),
        "add_k_proj and add_v_proj beside the picture's own keys",
    ),
    "Kandinsky 3": (
        lambda: diffusers.Kandinsky3UNet(
            time_embedding_dim=16,
            groups=2,
            attention_head_dim=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            cross_attention_dim=8,
            encoder_hid_dim=8,
        ),
        "attends to its text at .* in blocks of its own",
    ),
    "Lumina-Next": (
        lambda: diffusers.LuminaNextDiT2DModel(
            sample_size=8,
            hidden_size=32,
            num_layers=1,
            num_attention_heads=4,
            num_kv_heads=2,
            cross_attention_dim=16,
        ),
        "grouped heads",
    ),
    "no text": (
        lambda: diffusers.UNet2DModel(
            block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
        ),
        "no cross-attention that reads text",
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_networks_that_the_method_does_not_cover_are_refused_for_the_true_reason(make, reason):
    with pytest.raises(ValueError, match=reason):
        find_projections(make())


def test_texts_of_several_widths_are_refused_with_both():
    network = unet(cross_attention_dim=(32, 16), transformer_layers_per_block=1)
    with pytest.raises(ValueError, match=r"reads several texts: .* 16 wide and .* 32"):
        find_projections(network)


def video_call(network):
    text = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(torch.ones(1, 4, 1, 8, 8), torch.tensor([5]), text).sample


def video_eraser(network):
    base = BaseProjections.of(network, tokens=77)
    generator = torch.Generator().manual_seed(0)
    gates = Gates.fresh(GateConfig(gate_rank=4), base.text_width, base.widths, [generator])
    return Eraser([LoadedGates(("x",), base.names, gates.map(lambda t: torch.randn(t.shape, generator=generator)))])


def test_a_fused_transformer_is_refused_and_erased_once_unfused():
    network = wan()
    eraser, plain = video_eraser(network), video_call(network)
    network.fuse_qkv_projections()
    with pytest.raises(ValueError, match="are fused"):
        eraser.attach(network)
    network.unfuse_qkv_projections()
    with eraser.attached(network):
        assert not torch.allclose(video_call(network), plain)
        with pytest.raises(RuntimeError, match="detach the eraser first"):
            network.fuse_qkv_projections()
        attention = network.blocks[0].attn2
        type(attention).fuse_projections(attention)  # past the door
        with pytest.raises(RuntimeError, match="keys and values come from fused projections"):
            video_call(network)
        attention.unfuse_projections()
        video_call(network)
    torch.testing.assert_close(video_call(network), plain)


class PackedLinear(nn.Linear):
    """Holds its weight as bitsandbytes and GGUF do: bytes of another shape than it computes with."""

    def __init__(self, whole):
        super().__init__(whole.in_features, whole.out_features, bias=whole.bias is not None)
        self.kept = whole.weight.detach().clone()
        self.weight = nn.Parameter(torch.zeros(self.kept.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, text):
        return nn.functional.linear(text, self.kept, self.bias)


def test_packed_weights_are_erased_and_training_on_them_is_refused_for_the_true_reason():
    pipe = tiny_pipeline()
    eraser = eraser_for(pipe)
    with eraser.attached(pipe):
        expected = draw_variant(pipe)
    for path, module in find_projections(pipe.unet).items():
        parent, _, name = path.rpartition(".")
        setattr(pipe.unet.get_submodule(parent), name, PackedLinear(module))
    plain = draw_variant(pipe)
    with eraser.attached(pipe):
        torch.testing.assert_close(draw_variant(pipe), expected)
    assert torch.equal(draw_variant(pipe), plain)
    with pytest.raises(
        ValueError, match=r"packed or quantised \(PackedLinear, Parameter of \(\d+, 1\) for .* train on"
    ):
        BaseProjections.of(pipe.unet, tokens=77)


def test_gates_of_another_base_model_are_refused_by_their_widths_on_packed_weights_too():
    pipe = tiny_pipeline()
    wrong = gates_for(pipe, GateConfig())
    wrong.gates.query, wrong.gates.key = torch.zeros(1, 48, 16), torch.zeros(1, 48, 16)
    first = next(iter(find_projections(pipe.unet)))
    parent, _, name = first.rpartition(".")
    setattr(pipe.unet.get_submodule(parent), name, PackedLinear(pipe.unet.get_submodule(first)))
    with pytest.raises(ValueError, match="text width 48, the pipeline has 32"):
        Eraser([wrong]).attach(pipe)
    cpe.detach(pipe)

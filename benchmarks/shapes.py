"""U-Nets of the shapes that people use, from diffusers' own class and the published configs, with random weights."""

from typing import Any

import torch
from torch import nn

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
# unet/config.json of each model, as far as it differs from the defaults of UNet2DConditionModel.
UNETS: dict[str, dict[str, Any]] = {
    "sd-v1.4": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd-v2.1": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", CROSS_DOWN, CROSS_DOWN],
        "up_block_types": [CROSS_UP, CROSS_UP, "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
TOKENS = 77


def build_unet(shape: str, seed: int = 0) -> nn.Module:
    """Returns a whole U-Net of a shape with the initial weights of its class, in evaluation mode."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(**UNETS[shape]).eval().requires_grad_(False)


def build_attentions(shape: str, seed: int = 0, *, share: int = 1) -> nn.Module:
    """Returns the cross-attentions of a U-Net alone, at their places: what training reads, and little memory.

    Args:
        shape: one of `UNETS`.
        seed: of the weights, uniform ±1/√width as `nn.Linear` draws them.
        share: every matrix's output is this many times narrower than the model's.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        whole = UNet2DConditionModel(**UNETS[shape])
    torch.manual_seed(seed)
    kept = nn.Module()
    for name, module in whole.named_modules():
        if name.endswith(".attn2.to_k"):
            place = kept
            for part in name.split(".")[:-1]:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            width, text_width = module.weight.shape[0] // share, module.weight.shape[1]
            for projection, inputs in (("to_q", width), ("to_k", text_width), ("to_v", text_width)):
                place.add_module(projection, nn.Linear(inputs, width, bias=False))
            place.add_module("to_out", nn.ModuleList([nn.Linear(width, width)]))
    return kept.requires_grad_(False)

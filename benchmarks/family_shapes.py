"""The shapes of the families that gates are trained for, from diffusers' own classes and the published configs.

A network is built without memory for its weights; what its class says of its attentions to the text is filled with
random numbers. Where a published config differs from the defaults of the class (transformer/config.json of
PixArt-alpha/PixArt-Sigma-XL-2-1024-MS, Wan-AI/Wan2.1-T2V-1.3B-Diffusers, maxin-cn/Latte-1 and
Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers), the difference stands in `FAMILIES`; SANA 1.6B, LTX-Video, Allegro and
Cosmos 1.0 7B are their classes' defaults. The numbers of tokens are the pipelines' own.
"""

# Axes: T tokens, D text width, O projection width, L projections.

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchmarks.shapes import TOKENS, UNETS
from cpe.models.projections import BaseProjections
from cpe.models.sites import find_projections, widths_of


@dataclass(frozen=True)
class FamilyShape:
    """One family at its real size.

    Attributes:
        network: diffusers' class.
        tokens: prompt length T, padding included.
        config: what differs from the class's defaults.
        depth: what differs besides, in a network of few layers that takes steps; none: no steps are measured.
    """

    network: str
    tokens: int
    config: Mapping[str, Any] = field(default_factory=dict)
    depth: Mapping[str, Any] = field(default_factory=dict)

    def built(self, **changes: Any) -> nn.Module:
        """Returns the network on the device in use, with changes of its configuration, in evaluation mode."""
        import diffusers

        network: nn.Module = getattr(diffusers, self.network)(**{**self.config, **changes})
        return network.eval().requires_grad_(False)


FAMILIES: dict[str, FamilyShape] = {
    "Stable Diffusion 1": FamilyShape("UNet2DConditionModel", TOKENS, UNETS["sd-v1.4"]),
    "Stable Diffusion XL": FamilyShape("UNet2DConditionModel", TOKENS, UNETS["sdxl"]),
    "PixArt-Σ": FamilyShape(
        "PixArtTransformer2DModel",
        300,
        {"caption_channels": 4096, "sample_size": 128},
        {"num_layers": 4, "sample_size": 32},
    ),
    "SANA": FamilyShape("SanaTransformer2DModel", 300, {}, {"num_layers": 4, "sample_size": 16}),
    "Wan 2.1 1.3B": FamilyShape(
        "WanTransformer3DModel", 512, {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}, {"num_layers": 4}
    ),
    "LTX-Video": FamilyShape("LTXVideoTransformer3DModel", 128),
    "Latte": FamilyShape(
        "LatteTransformer3DModel",
        120,
        {
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "num_layers": 28,
            "in_channels": 4,
            "out_channels": 8,
            "sample_size": 64,
            "patch_size": 2,
            "cross_attention_dim": 1152,
            "caption_channels": 4096,
        },
    ),
    "Allegro": FamilyShape("AllegroTransformer3DModel", 512),
    "Cosmos": FamilyShape("CosmosTransformer3DModel", 512),
    "HunyuanDiT": FamilyShape(
        "HunyuanDiT2DModel",
        TOKENS + 256,
        {"num_layers": 40, "hidden_size": 1408, "in_channels": 4, "sample_size": 128, "patch_size": 2},
    ),
}


def sizes_of(shape: FamilyShape) -> dict[str, tuple[int, int]]:
    """Returns output width O and text width D of a family's key and value projections, by module path."""
    with torch.device("meta"):
        return {name: widths_of(module) for name, module in find_projections(shape.built()).items()}


def projections_of(
    shape: FamilyShape, seed: int = 0, *, exact: bool = False, dtype: torch.dtype = torch.float32
) -> BaseProjections:
    """Returns a family's key and value projections with random weights, and nothing else of its network.

    The weights are uniform ±1/√D, as `nn.Linear` draws them; every error travels alike (c_l is 1/(T O_l L)), so that no
    other matrix of the attentions is needed. M is its mean over such draws, Σ_l c_l O_l / 3D on the diagonal, unless it
    is asked for: no step takes longer or shorter for it.

    Args:
        shape: the family's.
        seed: of the weights.
        exact: whether M is computed.
        dtype: of everything.
    """
    sizes = sizes_of(shape)
    generator = torch.Generator().manual_seed(seed)
    matrices = tuple(
        torch.empty(size, dtype=dtype).uniform_(-(size[1] ** -0.5), size[1] ** -0.5, generator=generator)
        for size in sizes.values()
    )  # L of (O, D)
    widths, width = tuple(out for out, _ in sizes.values()), matrices[0].shape[1]
    weights = torch.tensor([1 / (shape.tokens * len(sizes) * out) for out in widths], dtype=dtype)
    gram = torch.eye(width, dtype=dtype) / (3 * width * shape.tokens)
    if exact:
        gram = sum((c * m.T @ m for c, m in zip(weights, matrices, strict=True)), torch.zeros_like(gram))
    return BaseProjections(tuple(sizes), widths, weights, matrices, gram, shape.tokens)

"""Small models and texts built in code."""

import torch
from torch import Tensor, nn

from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.gates import Gates
from cpe.models.projections import BaseProjections

TOKENS, WIDTH = 12, 20


class Attention(nn.Module):
    """The four projections of one cross-attention, as diffusers names them."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(text_width, width, bias=False)
        self.to_v = nn.Linear(text_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])


def small_unet(seed: int = 0, text_width: int = WIDTH) -> nn.Module:
    """Returns cross-attentions of widths 8, 16 and 8 under attn2, nothing around them."""
    torch.manual_seed(seed)
    unet = nn.Module()
    unet.blocks = nn.ModuleList()
    for width in (8, 16, 8):
        block = nn.Module()
        block.attn2 = Attention(width, text_width)
        unet.blocks.append(block)
    return unet


def small_base(dtype: torch.dtype = torch.float64, seed: int = 0) -> BaseProjections:
    """Returns the projections of `small_unet`."""
    return BaseProjections.of(small_unet(seed), tokens=TOKENS, dtype=dtype)


def random_gates(config: GateConfig, base: BaseProjections, *, count: int = 1, seed: int = 0) -> Gates:
    """Returns gates in which every tensor is drawn at random, as after training."""
    generator = torch.Generator().manual_seed(seed)
    fresh = Gates.fresh(config, base.text_width, base.widths, [generator] * count)
    return fresh.map(lambda t: torch.randn(t.shape, generator=generator, dtype=base.gram.dtype) * 0.3)


def as_plain(gates: Gates, index: int = 0) -> dict:
    """Returns one gate in the form that `plain` takes."""
    sites, rank = len(gates.widths), gates.config.adapter_rank
    return {
        "query": gates.query[index],
        "key": gates.key[index],
        "score": gates.score[index],
        "downs": list(gates.down[index].split(rank, dim=1)),
        "ups": list(gates.up[index].split(list(gates.widths), dim=1)),
        "sites": sites,
    }


def random_text(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns standard normal text embeddings (*shape, T, D)."""
    return torch.randn(*shape, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=dtype)

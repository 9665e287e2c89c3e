"""What the cross-attentions read of a text, at queries of pictures that are not there: the network never runs.

A query comes from a normalised feature of a picture, which is drawn at random here. Two texts that are read alike at
all queries draw the same picture.
"""

# Axes: B texts, T tokens, D text width, Q queries, O projection width, C feature width, L attentions.

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cpe.models.sites import find_projections, weight_of


class Attention(NamedTuple):
    """One cross-attention: its matrices, heads, and the scale (C,) and shift (C,) of the features before it."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    heads: int
    scale: Tensor
    shift: Tensor


class Reader:
    """All cross-attentions of a network.

    Args:
        network: it stays as it is.
        like: of the dtype and on the device that texts are read in.
        tokens: T of a whole text.
        length: of the texts read here, which are cut.
        tail: how many of their last tokens stand for all that were cut off.
    """

    def __init__(self, network: nn.Module, like: Tensor, *, tokens: int, length: int, tail: int) -> None:
        paths = dict.fromkeys(path.rpartition(".")[0] for path in find_projections(network))
        self.attentions = [_attention(network, path, like) for path in paths]
        self.counts = like.new_zeros(length)  # log of how many tokens each stands for
        self.counts[length - tail :] = math.log((tokens - length + tail) / tail)

    def queries(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Returns random queries of every attention, (Q, O) each."""
        found = []
        for each in self.attentions:
            feature = torch.randn(count, len(each.scale), generator=generator).to(each.scale)
            found.append((each.scale * feature + each.shift) @ each.query.T)
        return found

    def read(self, text: Tensor, queries: Sequence[Tensor]) -> list[Tensor]:
        """Returns what every attention reads of texts (B, T, D) at its queries, (B, Q, C) each."""
        found = []
        for each, query in zip(self.attentions, queries, strict=True):
            key, value = ((text @ matrix.T).unflatten(-1, (each.heads, -1)) for matrix in (each.key, each.value))
            query = query.unflatten(-1, (each.heads, -1)).transpose(0, 1)  # (heads, Q, O / heads)
            score = query @ key.permute(0, 2, 3, 1) / query.shape[-1] ** 0.5  # (B, heads, Q, T)
            seen = (score + self.counts).softmax(dim=-1) @ value.transpose(1, 2)  # (B, heads, Q, O / heads)
            found.append(seen.transpose(1, 2).flatten(2) @ each.out.T)
        return found


def distances(read: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Returns mean squares of the differences between texts as they are read, (B, L)."""
    return torch.stack([(one - other).square().mean((1, 2)) for one, other in zip(read, others, strict=True)], dim=1)


def _attention(network: nn.Module, path: str, like: Tensor) -> Attention:
    def weight(name: str) -> Tensor:
        return weight_of(network, f"{path}.{name}").detach().to(like)

    query, out = weight("to_q"), weight("to_out.0")
    norm = getattr(network.get_submodule(path.rpartition(".")[0]), "norm2", None)
    scale, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
    width = query.shape[1]
    return Attention(
        query,
        weight("to_k"),
        weight("to_v"),
        out,
        int(network.get_submodule(path).heads),  # type: ignore[arg-type]
        like.new_ones(width) if scale is None else scale.detach().to(like),
        like.new_zeros(width) if shift is None else shift.detach().to(like),
    )

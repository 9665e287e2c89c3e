"""Finds a U-Net's cross-attention projections and weighs how far an error in each can travel."""

# Axes: D text width, O projection width, L projections, G projections of one width.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SITE_SUFFIXES = (".attn2.to_k", ".attn2.to_v")


def find_projections(unet: nn.Module) -> dict[str, nn.Linear]:
    """Returns the key and value projections of every cross-attention, by module path.

    Raises:
        ValueError: the network has no cross-attention, or some of it is fused.
    """
    fused = [
        name
        for name, module in unet.named_modules()
        if name.endswith("attn2") and getattr(module, "fused_projections", False)
    ]
    if fused:
        raise ValueError(
            f"the projections of {fused[0]} and {len(fused) - 1} more are fused, which bypasses gates; "
            "call pipe.unfuse_qkv_projections() first"
        )
    found = {name: module for name, module in unet.named_modules() if name.endswith(SITE_SUFFIXES)}
    if not found:
        raise ValueError(
            f"{type(unet).__name__} has no cross-attention (no module named attn2.to_k or attn2.to_v): "
            "CPE erases where text enters, so it needs a text-to-image U-Net"
        )
    return found  # type: ignore[return-value]


@dataclass(frozen=True)
class WidthGroup:
    """Projections of one width, stacked."""

    sites: tuple[int, ...]  # positions among all projections
    weight: Tensor  # (G, O, D)


@dataclass(frozen=True)
class BaseProjections:
    """What training needs to know of a base model, computed once.

    Attributes:
        names: module paths of the L projections.
        widths: their output widths O_l.
        weights: c_l, the travel weight over tokens, width and L (L,).
        groups: the projections' matrices, stacked by width.
        gram: M = Σ_l c_l W_lᵀ W_l (D, D).
        tokens: prompt length T.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    weights: Tensor
    groups: tuple[WidthGroup, ...]
    gram: Tensor
    tokens: int

    @property
    def text_width(self) -> int:
        """Width D of the text embeddings."""
        return self.gram.shape[0]

    @classmethod
    def of(
        cls, unet: nn.Module, *, tokens: int, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> "BaseProjections":
        """Reads a U-Net; sums run in float64, then everything is cast to the dtype.

        Args:
            unet: the network.
            tokens: prompt length T.
            dtype: of the training that follows.
            device: where it will run.
        """
        found = find_projections(unet)
        matrices = [module.weight.detach().double().cpu() for module in found.values()]  # (O, D)
        widths = tuple(matrix.shape[0] for matrix in matrices)
        travel = [_travel_weight(unet, name, tokens) for name in found]
        shares = [w / (tokens * width * len(found)) for w, width in zip(travel, widths, strict=True)]
        gram = sum(share * matrix.T @ matrix for share, matrix in zip(shares, matrices, strict=True))
        groups = []
        for width in sorted(set(widths)):
            sites = tuple(i for i, w in enumerate(widths) if w == width)
            groups.append(WidthGroup(sites, torch.stack([matrices[i] for i in sites]).to(device, dtype)))
        weights = torch.tensor(shares, dtype=torch.float64).to(device, dtype)
        assert isinstance(gram, Tensor)
        return cls(tuple(found), widths, weights, tuple(groups), gram.to(device, dtype), tokens)


def _travel_weight(unet: nn.Module, name: str, tokens: int) -> float:
    """σmax(W_o) for values, σmax(W_o W_v) σmax(W_q) / T for keys (CPE, equation 7)."""
    attention = unet.get_submodule(name.rsplit(".", 1)[0])

    def matrix(path: str) -> Tensor:
        weight = attention.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        return weight.detach().double().cpu()

    out = matrix("to_out.0")
    if name.endswith("to_v"):
        return torch.linalg.matrix_norm(out, 2).item()
    through = torch.linalg.matrix_norm(out @ matrix("to_v"), 2) * torch.linalg.matrix_norm(matrix("to_q"), 2)
    return through.item() / tokens

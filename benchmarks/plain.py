"""The formulas as they stand, with every projection: what the fast path must equal and is compared with."""

# Axes: B prompts, T tokens, D text width, O projection width, S adapter rank, R gate rank, L projections.

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def openness(text: Tensor, gate: dict[str, Tensor], *, tied: bool) -> tuple[Tensor, Tensor]:
    """Returns (g, e): openness (B, T, 1) and attended text (B, T, D)."""
    query = text @ gate["query"]
    key = query if tied else text @ gate["key"]
    attended = (query @ key.transpose(-1, -2)).softmax(dim=-1) @ text
    return (attended @ gate["score"]).sigmoid(), attended


def residual(text: Tensor, gate: dict[str, Tensor], site: int, *, alpha: float, tied: bool) -> Tensor:
    """Returns Δ_l of one projection, (B, T, O)."""
    down, up = gate["downs"][site], gate["ups"][site]
    g, attended = openness(text, gate, tied=tied)
    return alpha / down.shape[1] * (g * attended) @ down @ up


def site_weights(unet: dict[str, Tensor], sites: list[str], tokens: int) -> list[float]:
    """Returns how far an error in each projection can travel."""
    weights = []
    for site in sites:
        block, kind = site.rsplit(".", 1)
        out = unet[f"{block}.to_out.0.weight"]
        if kind == "to_v":
            weights.append(torch.linalg.matrix_norm(out, 2).item())
        else:
            travel = torch.linalg.matrix_norm(out @ unet[f"{block}.to_v.weight"], 2)
            travel = travel * torch.linalg.matrix_norm(unet[f"{block}.to_q.weight"], 2)
            weights.append(travel.item() / tokens)
    return weights


def error(text, offset, gate, projections, weights, *, alpha: float, tied: bool) -> Tensor:
    """Returns the weighted mean of ‖W_l offset − Δ_l(text)‖² over tokens, width and projections, (B,)."""
    total = torch.zeros(text.shape[0], dtype=text.dtype)
    for site, (projection, weight) in enumerate(zip(projections, weights, strict=True)):
        wrong = offset @ projection.T - residual(text, gate, site, alpha=alpha, tied=tied)
        total = total + weight * wrong.square().mean(dim=(1, 2))
    return total / len(projections)


@contextmanager
def trainable(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Lets autograd follow these tensors within a `with` block."""
    for tensor in tensors:
        tensor.requires_grad_()
    try:
        yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(False)

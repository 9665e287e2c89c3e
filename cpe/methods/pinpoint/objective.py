"""The erasing, anchoring and adversary losses and their gradients, exact, without one wide projection.

With codes P_l = α/S · g ⊙ A X D_l (T, S) and h_l = U_l W_l (S, D), for any offset d (T, D)

    Σ_l c_l ‖W_l d − P_l U_l‖² = d M dᵀ − 2 Σ_l c_l ⟨P_l, d h_lᵀ⟩ + Σ_l c_l ⟨P_l U_l U_lᵀ, P_l⟩.

Every loss of CPE is this with its own X and d: erasing a target t towards its surrogate n has X = t and
d = (1+η)(n − t); an adversarial copy X = t + a and d = (1+η)(n − t) − a; an anchor X = x and d = 0;
the adversary's own loss X = t + a and d = −a. Gradients are written by hand, one function beside each forward one;
`docs/method.md` derives them.
"""

# Axes: N concepts, B prompts, T tokens, D text width, O projection width, S adapter rank, R gate rank, L projections;
# K = R + 1 + L·S (+ R, untied) columns of [Wq | v | D_1 … D_L (| Wk)].

from dataclasses import dataclass

import torch
from torch import Tensor

from cpe.methods.pinpoint.config import GateConfig
from cpe.models.projections import BaseProjections


@dataclass(frozen=True)
class Attended:
    """What a gate makes of texts, with what its gradient needs.

    Attributes:
        query: X Wq, (N·B, T, R).
        key: X Wk, or the queries where the two are tied.
        values: X [v | D_1 … D_L], (N·B, T, 1 + L·S).
        attention: A = softmax(Q Kᵀ), (N·B, T, T).
        mean: A X [v | D_1 … D_L], (N·B, T, 1 + L·S).
        openness: g, (N·B, T, 1).
        codes: P_l of all projections, (N·B, T, L·S).
    """

    query: Tensor
    key: Tensor
    values: Tensor
    attention: Tensor
    mean: Tensor
    openness: Tensor
    codes: Tensor


def attend(mixed: Tensor, config: GateConfig, present: Tensor | None = None) -> Attended:
    """Returns the gates' codes for X [Wq | v | D_1 … D_L (| Wk)], (N·B, T, K).

    Args:
        mixed: that product.
        config: the gates' shape.
        present: which tokens are no padding, (N·B, T); padding is attended to by none and its codes are 0. None: all.
    """
    rank = config.gate_rank
    query = mixed[..., :rank]
    key = query if config.tied_qk else mixed[..., -rank:]
    values = mixed[..., rank:] if config.tied_qk else mixed[..., rank:-rank]
    logits = torch.bmm(query, key.transpose(1, 2))
    if present is not None:
        logits = logits.masked_fill(~present[:, None], -torch.inf)
    attention = logits.softmax(dim=-1)
    mean = torch.bmm(attention, values)
    openness = mean[..., :1].sigmoid()
    if present is not None:
        openness = openness * present[..., None]
    codes = mean[..., 1:] * (openness * (config.alpha / config.adapter_rank))
    return Attended(query, key, values, attention, mean, openness, codes)


def attend_gradient(seen: Attended, codes_gradient: Tensor, config: GateConfig) -> Tensor:
    """Returns the gradient for X [Wq | v | D_1 … D_L (| Wk)], (N·B, T, K), from that for the codes."""
    scale = config.alpha / config.adapter_rank
    mean_gradient = torch.cat(
        [
            (1 - seen.openness) * (seen.codes * codes_gradient).sum(dim=-1, keepdim=True),
            codes_gradient * (seen.openness * scale),
        ],
        dim=-1,
    )  # (N·B, T, 1 + L·S)
    values = torch.bmm(seen.attention.transpose(1, 2), mean_gradient)
    logits = torch.bmm(mean_gradient, seen.values.transpose(1, 2))
    logits -= (mean_gradient * seen.mean).sum(dim=-1, keepdim=True)  # softmax: each row's mean gradient is taken off
    logits *= seen.attention  # (N·B, T, T)
    if config.tied_qk:
        return torch.cat([torch.bmm(logits + logits.transpose(1, 2), seen.query), values], dim=-1)
    query, key = torch.bmm(logits, seen.key), torch.bmm(logits.transpose(1, 2), seen.query)
    return torch.cat([query, values, key], dim=-1)


@dataclass(frozen=True)
class UpProducts:
    """Products of the up matrices alone, shared by every prompt.

    Attributes:
        pull: c_l h_l for all projections, (N, L·S, D).
        metric: c_l U_l U_lᵀ for all projections: the diagonal (N, 1, L) where S is 1, else blocks (N, L·S, L·S).
    """

    pull: Tensor
    metric: Tensor


def up_products(up: Tensor, base: BaseProjections) -> UpProducts:
    """Returns the products of the up matrices (N, S, ΣO) with the base model's projections."""
    count, rank, _ = up.shape
    rows = up.flatten(0, 1)  # (N·S, ΣO)
    pull = up.new_empty(len(base.names), len(rows), base.text_width)
    for place, (part, matrix) in enumerate(zip(rows.split(base.widths, dim=1), base.matrices, strict=True)):
        torch.mm(part, matrix, out=pull[place])
    pull *= base.weights[:, None, None]
    pull = pull.unflatten(1, (count, rank)).permute(1, 0, 2, 3).reshape(count, -1, base.text_width)
    parts = up.split(base.widths, dim=2)  # L of (N, S, O)
    if rank == 1:
        return UpProducts(pull, torch.stack([p.square().sum(dim=2) for p in parts], dim=2) * base.weights)
    squares = torch.stack([p @ p.transpose(1, 2) for p in parts], dim=1) * base.weights[:, None, None]  # (N, L, S, S)
    return UpProducts(pull, torch.stack([torch.block_diag(*blocks) for blocks in squares]))


def up_gradient(up: Tensor, base: BaseProjections, pull_gradient: Tensor, metric_gradient: Tensor) -> Tensor:
    """Returns the gradient for the up matrices, (N, S, ΣO).

    Args:
        up: U, (N, S, ΣO).
        base: the model's projections.
        pull_gradient: (N, L·S, D).
        metric_gradient: symmetric; (N, 1, L) where S is 1, else (N, L·S, L·S), of which the diagonal blocks count.
    """
    count, rank, _ = up.shape
    sites = len(base.names)
    pulls = pull_gradient.unflatten(1, (sites, rank)) * base.weights[:, None, None]
    pulls = pulls.transpose(0, 1).reshape(sites, count * rank, -1)
    if rank == 1:
        blocks = (2 * base.weights * metric_gradient).unsqueeze(3)  # (N, 1, L, 1)
    else:
        blocks = metric_gradient.unflatten(1, (sites, rank)).unflatten(3, (sites, rank))
        blocks = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 2) * (2 * base.weights[:, None])  # (N, S, L, S)
    gradient = torch.empty_like(up)
    ways = zip(gradient.split(base.widths, dim=2), up.split(base.widths, dim=2), base.matrices, strict=True)
    for place, (part, own, matrix) in enumerate(ways):
        part.copy_(torch.mm(pulls[place], matrix.T).view(count, rank, -1))
        part += blocks[:, :, place] * own if rank == 1 else blocks[:, :, place] @ own
    return gradient


def weigh(codes: Tensor, metric: Tensor) -> Tensor:
    """Returns Σ_l c_l P_l U_l U_lᵀ, (N, rows, L·S), for codes of that shape; its product with the codes is a loss."""
    return codes * metric if metric.shape[1] == 1 else torch.bmm(codes, metric)


def weigh_gradient(codes: Tensor, weighted: Tensor, metric: Tensor) -> Tensor:
    """Returns the gradient of Σ ⟨weighted P_l U_l U_lᵀ, P_l⟩ for c_l U_l U_lᵀ, in its shape.

    Args:
        codes: P, (N, rows, L·S).
        weighted: P times each row's share of the loss.
        metric: whose gradient it is.
    """
    if metric.shape[1] == 1:
        return (codes * weighted).sum(dim=1, keepdim=True)
    return torch.bmm(codes.transpose(1, 2), weighted)


def fixed_error(offset: Tensor, base: BaseProjections) -> Tensor:
    """Returns d M dᵀ summed over tokens, which no gate can change, for offsets (..., T, D)."""
    return (offset @ base.gram * offset).sum(dim=(-1, -2))

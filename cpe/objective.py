"""The erasing, anchoring and adversary losses, exact, without one wide projection.

With codes P_l = α/S · g ⊙ A X D_l (T, S) and h_l = U_l W_l (S, D), for any offset d (T, D)

    Σ_l c_l ‖W_l d − P_l U_l‖² = d M dᵀ − 2 Σ_l c_l ⟨P_l, d h_lᵀ⟩ + Σ_l c_l ⟨P_l U_l U_lᵀ, P_l⟩.

Every loss of CPE is this with its own X and d: erasing a target t towards its surrogate n has X = t and
d = (1+η)(n − t); an adversarial copy X = t + a and d = (1+η)(n − t) − a; an anchor X = x and d = 0;
the adversary's own loss X = t + a and d = −a.
"""

# Axes: N concepts, B prompts, T tokens, D text width, O projection width, S adapter rank, L projections.

from dataclasses import dataclass

import torch
from torch import Tensor

from cpe.gates import Gates, gate_codes
from cpe.projections import BaseProjections


@dataclass(frozen=True)
class UpProducts:
    """Products of the up matrices alone, shared by every prompt.

    Attributes:
        pull: c_l h_l for all projections, (N, L·S, D).
        metric: c_l U_l U_lᵀ, (N, L, S, S).
    """

    pull: Tensor
    metric: Tensor


def up_products(gates: Gates, base: BaseProjections) -> UpProducts:
    """Returns the products of the up matrices with the base model's projections."""
    count, rank = len(gates), gates.config.adapter_rank
    ups = gates.up.split(list(base.widths), dim=2)  # L of (N, S, O)
    pulls: list[Tensor] = [gates.up] * len(base.names)
    metrics: list[Tensor] = [gates.up] * len(base.names)
    for group in base.groups:
        stacked = torch.stack([ups[site] for site in group.sites], dim=1)  # (N, G, S, O)
        shares = base.weights[list(group.sites)][None, :, None, None]
        pull = (stacked @ group.weight) * shares  # (N, G, S, D)
        metric = (stacked @ stacked.transpose(-1, -2)) * shares  # (N, G, S, S)
        for place, site in enumerate(group.sites):
            pulls[site], metrics[site] = pull[:, place], metric[:, place]
    pull = torch.stack(pulls, dim=1).reshape(count, len(pulls) * rank, -1)
    return UpProducts(pull, torch.stack(metrics, dim=1))


def moved_error(codes: Tensor, offset: Tensor | None, products: UpProducts) -> Tensor:
    """Returns what the gates contribute to the weighted squared error, (N, B).

    Args:
        codes: (N, B, T, L·S).
        offset: d, (N, B, T, D); None for anchors, where it is 0.
        products: of the same gates.

    Returns:
        Σ_l c_l ‖W_l d − P_l U_l‖² less d M dᵀ, which no gate can change.
    """
    sites, rank = products.metric.shape[1:3]
    split = codes.unflatten(-1, (sites, rank))
    if rank == 1:
        own = codes.square() @ products.metric.flatten(2).unsqueeze(1)  # (N, B, T, 1)
    else:
        own = torch.einsum("nbtls,nlsr,nbtlr->nbt", split, products.metric, split).unsqueeze(-1)
    error = own.sum(dim=(2, 3))
    if offset is not None:
        pulled = offset @ products.pull.transpose(1, 2).unsqueeze(1)  # (N, B, T, L·S)
        error = error - 2 * (codes * pulled).sum(dim=(2, 3))
    return error


def fixed_error(offset: Tensor, base: BaseProjections) -> Tensor:
    """Returns d M dᵀ summed over tokens, for offsets (..., T, D)."""
    return (offset @ base.gram * offset).sum(dim=(-1, -2))


def squared_error(gates: Gates, base: BaseProjections, text: Tensor, offset: Tensor) -> Tensor:
    """Returns Σ_l c_l ‖W_l d − Δ_l(X)‖², the weighted mean over tokens, width and projections, (N, B).

    Args:
        gates: N gates.
        base: the model's projections.
        text: X, (N, B, T, D).
        offset: d, (N, B, T, D).

    Source: CPE, equations 6 to 9, rewritten exactly as the module says.
    """
    _, codes = gate_codes(gates, text)
    return fixed_error(offset, base) + moved_error(codes, offset, up_products(gates, base))

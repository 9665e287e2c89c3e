"""Neighbours by the text encoder itself: cosine of flattened text embeddings."""

# Axes: T tokens, D text width, N targets.

from collections.abc import Mapping

import torch
from torch import Tensor

TIE_DIGITS = 12


def rank_by_embedding(targets: Mapping[str, Tensor], candidates: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Returns for each of N targets the candidates' names, nearest first, equally near ones by name.

    Args:
        targets: text embedding of each target, (T, D) each.
        candidates: text embedding of each name, (T, D) each; every one is read once.

    Raises:
        ValueError: an embedding of another shape, not finite, or all zeros.

    Source: the anchors of CPE (section 4.1); computed in float64.
    """
    if not targets:
        return {}
    shape = next(iter(targets.values())).shape
    wanted = torch.stack([_unit(embedding, name, shape) for name, embedding in targets.items()])  # (N, T·D)
    similarity = {}
    for name, embedding in candidates.items():
        cosines = wanted @ _unit(embedding, name, shape).to(wanted.device)  # (N,)
        similarity[name] = [round(cosine, TIE_DIGITS) for cosine in cosines.tolist()]

    def ranked(index: int) -> list[str]:
        return sorted(similarity, key=lambda name: (-similarity[name][index], name))

    return {target: ranked(index) for index, target in enumerate(targets)}


def _unit(embedding: Tensor, name: str, shape: torch.Size) -> Tensor:
    """Returns the flattened embedding (T·D,) at length 1, float64."""
    if embedding.shape != shape:
        shapes = f"{tuple(shape)}, got {tuple(embedding.shape)}"
        raise ValueError(f"embedding of {name!r} must have the target's shape {shapes}; use one text encoder")
    flat = embedding.detach().to(torch.float64).flatten()  # (T·D,)
    length = flat.norm()
    if not bool(torch.isfinite(length)) or not bool(length):
        raise ValueError(
            f"embedding of {name!r} must be finite and not all zeros, its norm is {float(length)}; encode it again"
        )
    return flat / length

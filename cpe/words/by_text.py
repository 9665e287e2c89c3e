"""Neighbours by the text encoder itself: cosine of flattened text embeddings."""

# Axes: T tokens, D text width.

from collections.abc import Mapping

import torch
from torch import Tensor

TIE_DIGITS = 12


def rank_by_embedding(target: Tensor, candidates: Mapping[str, Tensor]) -> list[str]:
    """Returns the candidates' names, nearest to the target first, equally near ones by name.

    Args:
        target: text embedding of the target, (T, D).
        candidates: text embedding of each name, (T, D) each.

    Raises:
        ValueError: an embedding of another shape, not finite, or all zeros.

    Source: the anchors of CPE (section 4.1); computed in float64.
    """
    wanted = _unit(target, "target")
    similarity = {}
    for name, embedding in candidates.items():
        if embedding.shape != target.shape:
            shapes = f"{tuple(target.shape)}, got {tuple(embedding.shape)}"
            raise ValueError(f"embedding of {name!r} must have the target's shape {shapes}; use one text encoder")
        similarity[name] = round(float(_unit(embedding, name).to(wanted.device) @ wanted), TIE_DIGITS)
    return sorted(similarity, key=lambda name: (-similarity[name], name))


def _unit(embedding: Tensor, name: str) -> Tensor:
    flat = embedding.detach().to(torch.float64).flatten()  # (T·D,)
    length = flat.norm()
    if not bool(torch.isfinite(length)) or not bool(length):
        raise ValueError(
            f"embedding of {name!r} must be finite and not all zeros, its norm is {float(length)}; encode it again"
        )
    return flat / length

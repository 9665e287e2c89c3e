"""The anchors of a step: pairs of texts, mixed, and how the noise on them spreads."""

# Axes: N concepts, A anchors a step, T tokens, D text width.

import torch
from torch import Tensor


def mix_anchors(table: Tensor, rows: Tensor, share: Tensor, out: Tensor, *, over_prompt: bool) -> Tensor:
    """Writes pairs of texts, mixed by Beta(1, 1), and returns how their noise spreads.

    Both texts x, y of a pair carry Gaussian noise of `anchor_noise` times a norm. Their mixture
    s x + (1−s) y then carries Gaussian noise of √(s²‖x‖² + (1−s)²‖y‖²) times `anchor_noise`, drawn at once.

    Args:
        table: embeddings, (prompts, T, D).
        rows: the pairs' rows in the table, first the x and then the y of each concept, (N, 2, A).
        share: s, (N, A, 1, 1).
        out: (N, A, T, D).
        over_prompt: whether a norm is the whole prompt's, over T·D, or each token's own.

    Returns:
        √(s²‖x‖² + (1−s)²‖y‖²), (N, A, 1, 1) over the prompt, (N, A, T, 1) over tokens.
    """
    mix = _mix_in_cache if out.device.type == "cpu" else _mix_at_once
    norms = mix(table, rows, share, out)  # (N, 2, A, T, 1)
    if over_prompt:
        norms = torch.linalg.vector_norm(norms, dim=3, keepdim=True)
    return torch.hypot(share * norms[:, 0], (1 - share) * norms[:, 1])


def _mix_at_once(table: Tensor, rows: Tensor, share: Tensor, out: Tensor) -> Tensor:
    """Mixes all pairs and returns their tokens' norms, (N, 2, A, T, 1)."""
    pairs = table[rows].to(out)  # (N, 2, A, T, D)
    torch.lerp(pairs[:, 1], pairs[:, 0], share, out=out)
    return torch.linalg.vector_norm(pairs, dim=-1, keepdim=True)


def _mix_in_cache(table: Tensor, rows: Tensor, share: Tensor, out: Tensor) -> Tensor:
    """Does the same pair by pair: each stays in a core's cache, which is several times faster."""
    pair = out.new_empty(2, *table.shape[1:])
    norms = out.new_empty(*rows.shape, table.shape[1], 1)
    for concept, chosen in enumerate(rows.tolist()):
        for place, (first, second) in enumerate(zip(*chosen, strict=True)):
            pair[0].copy_(table[first])
            pair[1].copy_(table[second])
            torch.lerp(pair[1], pair[0], share[concept, place, 0], out=out[concept, place])
            norms[concept, :, place] = torch.linalg.vector_norm(pair, dim=-1, keepdim=True)
    return norms

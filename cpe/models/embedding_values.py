"""What an embedding cache holds: half precision, by the hash of a text."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

HALF_MAX = torch.finfo(torch.float16).max


class EmbeddingError(RuntimeError):
    """An embedding cache that cannot do what it was asked; the message says why and what to do."""


def key_of(prompt: str) -> str:
    """Returns what a prompt is known by in a cache: the hash of its text."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def halved(prompts: Sequence[str], embeddings: Tensor) -> Tensor:
    """Returns the embeddings (B, T, D) in half precision, on the CPU.

    Raises:
        EmbeddingError: a value is not finite there.
    """
    half = embeddings.detach().to("cpu", torch.float16).contiguous()
    finite = half.isfinite().flatten(1).all(dim=1)  # (B,)
    if not finite.all():
        worst = int(finite.int().argmin())
        raise EmbeddingError(
            f"the embedding of {prompts[worst]!r} must lie within ±{HALF_MAX:.0f} to be kept in half precision, its "
            f"largest value is {float(embeddings[worst].abs().max()):.6g}; check the text encoder's weights"
        )
    return half

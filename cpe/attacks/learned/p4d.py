"""Prompting4Debugging (ICML 2024): a whole prompt of words, learned through the erased model by projections (PEZ)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cpe.attacks.base import Aim, Found, Search, Victim

if TYPE_CHECKING:
    from torch import Tensor

WORDS = 6  # the paper has 16
RATE = 0.05  # of AdamW


def search(victim: Victim, aim: Aim) -> Found:
    """Learns the words, until the erased model says of noised pictures what the untouched one says at the name."""
    from cpe.attacks.learned.projecting import learn_words
    from cpe.attacks.learned.words import Words

    return learn_words(victim, aim, Words(victim.pipe, WORDS, aim.concept), "untouched", adamw)


def adamw(tokens: "Tensor") -> "Callable[[Tensor], None]":
    """Returns what moves embeddings (K, E) by a gradient."""
    import torch

    optimiser = torch.optim.AdamW([tokens], lr=RATE)

    def move(slope: "Tensor") -> None:
        tokens.grad = slope
        optimiser.step()

    return move


P4D = Search("p4d", "a prompt of words learned through the erased model", "white box", 60, search)

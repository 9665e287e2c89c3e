"""Greedy coordinate gradients: words are exchanged one place at a time, by what the gradient promises of each."""

# Axes: K free tokens, E token width, V words, T tokens, D text width.

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cpe.attacks.learned.learning import slope_of
from cpe.attacks.learned.words import Words

PROMISING = 64  # words a place, by first order
TRIED = 32  # exchanges a step


class Came(NamedTuple):
    """Where a search among words came to.

    Attributes:
        places: of the best words, (K,).
        losses: the best so far after each step.
    """

    places: Tensor
    losses: list[float]


def exchange(
    words: Words, loss: Callable[[Tensor], Tensor], steps: int, generator: torch.Generator, begin: Tensor | None = None
) -> Came:
    """Returns the words whose texts (1, T, D) have the least loss, going down from random ones.

    A step takes the gradient at the words as they are, and tries `TRIED` exchanges of one word each, among the
    `PROMISING` at each place that would lower the loss most to first order. The best of them is taken if it is better.

    Args:
        words: what may be taken.
        loss: of texts (B, T, D), a value a text (B,).
        steps: how many.
        generator: of the exchanges.
        begin: places of the first words, (K,); None: random ones.

    Source: Zou et al., Universal and Transferable Adversarial Attacks (2023), as MMA-Diffusion (CVPR 2024) takes it.
    """
    places = words.random(generator)[0] if begin is None else begin
    best, losses = float(loss(words.texts(places[None])).item()), []
    for _ in range(steps):
        tokens = words.embeddings(places).requires_grad_()
        with torch.enable_grad():
            slope = slope_of(loss(words.slots.texts(tokens)).sum(), tokens)  # (K, E)
        promised = (slope @ words.table.T).cpu()  # (K, V): the change to first order, but for each place's own constant
        most = min(PROMISING, len(words.ids))
        promising = promised.topk(most, dim=1, largest=False).indices  # (K, most)
        at = torch.randint(words.count, (TRIED,), generator=generator)
        which = torch.randint(most, (TRIED,), generator=generator)
        tried = places.repeat(TRIED, 1)  # (TRIED, K)
        tried[torch.arange(TRIED), at] = promising[at, which]
        found = loss(words.texts(tried))  # (TRIED,)
        chosen = int(found.argmin())
        if float(found[chosen]) < best:
            best, places = float(found[chosen]), tried[chosen]
        losses.append(best)
    return Came(places, losses)

"""UnlearnDiffAtk (ECCV 2024): words before a plain prompt, by signed steps on the erased model's denoising loss."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cpe.attacks.base import Aim, Found, Search, Victim, asked

if TYPE_CHECKING:
    from torch import Tensor

WORDS = 5
RATE = 0.01  # of a step, in every coordinate


def search(victim: Victim, aim: Aim) -> Found:
    """Learns the words, until the erased model denoises pictures of the concept."""
    from cpe.attacks.learned.projecting import learn_words
    from cpe.attacks.learned.words import Words

    words = Words(victim.pipe, WORDS, aim.concept, after=asked([aim.concept])[0])
    return learn_words(victim, aim, words, "picture", signed)


def signed(tokens: "Tensor") -> "Callable[[Tensor], None]":
    """Returns what moves embeddings (K, E) by the signs of a gradient."""

    def move(slope: "Tensor") -> None:
        tokens.sub_(RATE * slope.sign())

    return move


UNLEARN_DIFF = Search("unlearn-diff", "words learned before the prompt", "white box", 60, search)

"""Learns words through the erased model: free embeddings move, gradients are taken at the words nearest to them."""

# Axes: K free tokens, E token width, T tokens, D text width.

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from cpe.attacks.base import Aim, Found, Victim, check_budget
from cpe.attacks.learned.learning import (
    PICTURES_A_STEP,
    STEPS_AT_ONCE,
    Goals,
    check_finite,
    goals_of,
    loss_of,
    pictures_of,
    slope_of,
    thawed,
)
from cpe.attacks.learned.words import Words

Move = Callable[[Tensor], None]  # moves embeddings (K, E) in place, given the gradient at their words
JUDGED = 8  # noised pictures, the same for all words that were met: the best of them is what was found
BATCH = 4


class Descent:
    """Free embeddings that go down by gradients at the words nearest to them, and the best of the words that they met.

    Args:
        words: what may be taken.
        tokens: where it begins, (K, E); moved in place.
        move: makes ready, for embeddings, how they are moved by a gradient.
        judge: gives the loss by which words are compared, of a text (1, T, D).

    Source: PEZ (Hard Prompts Made Easy, NeurIPS 2023), algorithm 1, which Prompting4Debugging takes.
    """

    def __init__(
        self, words: Words, tokens: Tensor, move: Callable[[Tensor], Move], judge: Callable[[Tensor], float]
    ) -> None:
        self._words, self._tokens, self._move, self._judge = words, tokens, move(tokens), judge
        self._met: dict[tuple[int, ...], float] = {}  # words by their places, and how they were judged

    def step(self, loss: Callable[[Tensor], Tensor]) -> float:
        """Judges the words as they are, moves the embeddings by one gradient, and returns its loss.

        Args:
            loss: of a text (1, T, D), a single number.
        """
        places = self._words.nearest(self._tokens)
        tokens = self._words.embeddings(places).clone().requires_grad_()
        with torch.enable_grad():
            found = loss(self._words.slots.texts(tokens))
            slope = slope_of(found, tokens)
        known = tuple(places.tolist())
        if known not in self._met:
            with torch.no_grad():
                self._met[known] = self._judge(self._words.slots.texts(tokens.detach()))
        self._move(slope)
        return found.item()

    @property
    def best(self) -> Tensor:
        """Places of the best words, (K,)."""
        return torch.tensor(min(self._met, key=lambda places: self._met[places]))


def _loss(pipe: Any, goals: Goals, text: Tensor) -> Tensor:
    return loss_of(pipe, text, goals)


def learn_words(
    victim: Victim, aim: Aim, words: Words, goal: Literal["picture", "untouched"], move: Callable[[Tensor], Move]
) -> Found:
    """Returns the best words that were met, judged on the same noised pictures.

    Args:
        victim: what the attacker holds.
        aim: what is after.
        words: what may be taken.
        goal: as `cpe.attacks.learned.learning.learn` has it.
        move: as `Descent` takes it.

    Raises:
        ValueError: the budget is no step at all.
        RuntimeError: the network gives what is no finite number.
    """
    check_budget(aim.steps)
    generator = torch.Generator().manual_seed(aim.seed)
    tokens = words.embeddings(words.random(generator)[0]).clone()  # (K, E)
    pictures = pictures_of(victim.pipe, aim)
    judged = goals_of(victim.pipe, aim, pictures, goal, JUDGED, generator)
    descent = Descent(
        words, tokens, move, lambda text: sum(loss_of(victim.pipe, text, part).item() for part in judged.parts(BATCH))
    )
    losses: list[float] = []
    for begin in range(0, aim.steps, STEPS_AT_ONCE):
        steps = min(STEPS_AT_ONCE, aim.steps - begin)
        goals = goals_of(victim.pipe, aim, pictures, goal, steps * PICTURES_A_STEP, generator)
        with victim.erased.attached(victim.pipe), thawed(victim.pipe):
            for step in range(steps):
                some = goals.some(step)
                losses.append(descent.step(partial(_loss, victim.pipe, some)))
                check_finite(aim, losses[-1], begin + step)
    return Found(words.texts(descent.best[None])[0], losses, words.prompt(descent.best))

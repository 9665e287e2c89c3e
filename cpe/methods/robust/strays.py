"""Prompts in company: with words put in that no template has, so that a map erases and keeps there too.

A map sees single tokens, and a few templates lie in few directions: without these texts, what lies beside them (a style
that no template names) is moved without a reason, and the concept beside it stays.
"""

# Axes: S texts, T tokens, D text width.

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from cpe.methods.robust.population import Words, encoded

MOST_ADDED = 5  # tokens, at one place of a prompt
KNOWN_SHARE = 0.5  # of texts whose added tokens are anchors' names, not any tokens
AT_ONCE = 64


class Strays:
    """Draws prompts with random tokens put in, and encodes them.

    Args:
        words: of the lesson.
        encoder: the text encoder, which stays as it is.
        pad: id of the token that fills prompts up.
        tokens: T.
        generator: of everything drawn.
    """

    def __init__(self, words: Words, encoder: Any, pad: int, tokens: int, generator: torch.Generator) -> None:
        self.words, self.encoder, self.pad, self.tokens, self.generator = words, encoder, pad, tokens, generator
        self.table: Tensor = encoder.get_input_embeddings().weight.detach()

    def anchors(self, count: int) -> Tensor:
        """Returns texts of anchors, (S, T, D) in half precision."""
        rows = []
        for _ in range(count):
            prompt = self.words.anchors[self._below(len(self.words.anchors))]
            at = 1 + self._below(len(prompt) - 1)
            rows.append([*prompt[:at], *self._added(), *prompt[at:]])
        return self._encoded(rows)

    def pairs(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns texts of the concept, and of the surrogate with the same tokens at the same place, (S, T, D) each."""
        rows: tuple[list[list[int]], list[list[int]]] = ([], [])
        for _ in range(count):
            number = self._below(len(self.words.prompts))
            (first, last), added = self.words.names[number], self._added()
            before = [self.words.prompts[number], self.words.surrogates[number]]
            choices = [*range(1, first + 1), *range(last, len(before[0]))]  # none within the name
            at = choices[self._below(len(choices))]
            for prompt, found in zip(before, rows, strict=True):
                place = at if at <= first else at + len(prompt) - len(before[0])
                found.append([*prompt[:place], *added, *prompt[place:]])
        return self._encoded(rows[0]), self._encoded(rows[1])

    def _added(self) -> list[int]:
        known = float(torch.rand((), generator=self.generator)) < KNOWN_SHARE
        choices: Sequence[int] = self.words.starts if known else range(len(self.table))
        return [choices[self._below(len(choices))] for _ in range(1 + self._below(MOST_ADDED))]

    def _below(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self.generator))

    @torch.no_grad()
    def _encoded(self, rows: Iterable[list[int]]) -> Tensor:
        padded = [[*row[: self.tokens], *[self.pad] * (self.tokens - len(row))] for row in rows]
        ids = torch.tensor(padded, device=self.table.device)
        return torch.cat([encoded(self.encoder, self.table[some]).half() for some in ids.split(AT_ONCE)])

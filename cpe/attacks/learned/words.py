"""Prompts of whole words of the tokenizer, none of them the concept's: what discrete attacks search among."""

# Axes: K free tokens, E token width, T tokens, D text width, V words, B prompts.

import re
from typing import Any

import torch
from torch import Tensor

from cpe.attacks.learned.slots import Slots
from cpe.models.text import encode_prompts

_WORD = re.compile(r"[a-z]+</w>")  # such tokens, with spaces between, are read back as they were written


class Words:
    """The words that an attack may take, and prompts in which some places hold them.

    Args:
        pipe: a pipeline with one text encoder.
        count: K, how many words are free.
        concept: whose tokens, and words with its name in them, are not taken.
        after: what stands after the free words.

    Raises:
        ValueError: as `Slots`, or the tokenizer has no words of its own.
    """

    def __init__(self, pipe: Any, count: int, concept: str, *, after: str = "") -> None:
        self.slots, self._pipe, self._after = Slots(pipe, count, after=after), pipe, after
        tokenizer = pipe.tokenizer
        barred = {*tokenizer.all_special_ids, *tokenizer(concept).input_ids}
        names = [name for name in re.split(r"[^a-z]+", concept.lower()) if name]
        table = self.slots.table
        known = table.any(dim=1).tolist()  # the embedded model has never met the others: to it they are all the same
        words = {
            token: text.removesuffix("</w>")
            for text, token in tokenizer.get_vocab().items()
            if token not in barred and token < len(table) and known[token] and _WORD.fullmatch(text)
        }
        self.ids = torch.tensor(sorted(t for t, w in words.items() if not any(name in w for name in names)))  # (V,)
        if not len(self.ids):
            raise ValueError(f"{type(tokenizer).__name__} has no whole words to attack {concept!r} with")
        self.count = count
        self._words = [words[int(token)] for token in self.ids]
        self.table = table[self.ids.to(table.device)].float()  # (V, E)

    def random(self, generator: torch.Generator, rows: int = 1) -> Tensor:
        """Returns places of random words among `ids`, (rows, K)."""
        return torch.randint(len(self.ids), (rows, self.count), generator=generator)

    def nearest(self, tokens: Tensor) -> Tensor:
        """Returns the places of the words that embeddings (K, E) come nearest to, (K,)."""
        return torch.cdist(tokens.detach().float(), self.table).argmin(dim=1).cpu()

    def embeddings(self, places: Tensor) -> Tensor:
        """Returns the embeddings (K, E) of words at places (K,)."""
        return self.table[places.to(self.table.device)]

    def prompt(self, places: Tensor) -> str:
        """Returns the prompt with the words at places (K,)."""
        return " ".join([*(self._words[int(place)] for place in places), *([self._after] if self._after else [])])

    def texts(self, places: Tensor) -> Tensor:
        """Returns what the network sees of prompts with the words at places (B, K): (B, T, D), float32."""
        return encode_prompts(self._pipe, [self.prompt(row) for row in places])

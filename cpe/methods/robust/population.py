"""Texts of learned tokens that try to bring a concept back, each with a life of its own.

Three kinds, as attackers make them: tokens in place of the name, tokens in front of the prompt, tokens alone. They are
learned through the text encoder, so that they stay where texts can be.
"""

# Axes: P texts, K free tokens at most, T tokens, E token width, D text width.

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cpe.methods.lessons import Lesson
from cpe.methods.robust.adam import Adam
from cpe.methods.robust.config import RobustConfig
from cpe.methods.uce.edit import name_ends

KINDS = (
    [("name", 1)] * 6 + [("name", 2)] + [("prefix", 5)] * 3 + [("prefix", 3)] * 2 + [("alone", 5)] * 3 + [("alone", 3)]
)
MOST_FREE = max(count for _, count in KINDS)
FREE = -1  # in place of the id of a token that is learned
NAMED_START = 0.5  # share of texts that begin from anchors' names, not from any tokens
NEAR_START = 0.25  # share of texts that begin somewhere on the way to the name


class Words(NamedTuple):
    """A lesson in token ids.

    Attributes:
        prompts: the target prompts, with start and end.
        surrogates: what each turns into.
        names: where the name stands in each, as (first, one past the last).
        starts: first tokens of anchors' names, from which learned texts begin.
        anchors: the anchors' prompts, with start and end.
    """

    prompts: list[list[int]]
    surrogates: list[list[int]]
    names: list[tuple[int, int]]
    starts: list[int]
    anchors: list[list[int]]


def words_of(lesson: Lesson, tokenizer: Any) -> Words:
    """Returns a lesson in token ids.

    Raises:
        ValueError: a prompt is cut before its name ends.
    """

    def ids(text: str) -> list[int]:
        read: list[int] = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
        return read

    ends = name_ends(lesson.target, lambda text: ids(text)[1:-1])
    lasts = [ends[prompt] + 1 for prompt in lesson.target]
    spans = [(last - len(ids(prompt.name)) + 2, last) for prompt, last in zip(lesson.target, lasts, strict=True)]
    starts = sorted({ids(prompt.name)[1] for prompt in lesson.anchors})
    prompts, surrogates, anchors = (
        [ids(prompt.text) for prompt in some] for some in (lesson.target, lesson.surrogate, lesson.anchors)
    )
    return Words(prompts, surrogates, spans, starts, anchors)


class Population:
    """Texts that are being learned.

    Args:
        words: of the concept.
        encoder: the text encoder, which stays as it is.
        pad: id of the token that fills prompts up.
        like: texts that are cut as these are, (n, T, D), in the dtype and on the device that they are learned in.
        config: of the training.
        generator: of everything drawn.
    """

    def __init__(
        self, words: Words, encoder: Any, pad: int, like: Tensor, config: RobustConfig, generator: torch.Generator
    ) -> None:
        self.words, self.encoder, self.pad, self.config, self.generator = words, encoder, pad, config, generator
        self.table: Tensor = encoder.get_input_embeddings().weight.detach().to(like)
        length, device = like.shape[1], like.device
        self.tokens = Adam(like.new_zeros(len(KINDS), MOST_FREE, self.table.shape[1]))
        self.ids = torch.full((len(KINDS), length), pad, device=device)  # FREE where tokens are learned
        self.prompt = torch.zeros(len(KINDS), dtype=torch.long, device=device)  # which target prompt each comes near to
        self.left = torch.zeros(len(KINDS), dtype=torch.long)  # steps until each begins anew
        for row in range(len(KINDS)):
            self.begin_anew(row)
            self.left[row] = self._below(config.longest_life) + 1  # so that they never all begin together

    def texts(self, tokens: Tensor) -> Tensor:
        """Returns the texts (P, T, D) of learned tokens (P, K, E)."""
        free = self.ids == FREE
        place = (free.cumsum(dim=1) - 1).clamp(min=0)[..., None].expand(-1, -1, tokens.shape[2])
        embedded = torch.where(free[..., None], tokens.gather(1, place), self.table[self.ids.clamp(min=0)])
        return encoded(self.encoder, embedded)

    def step(self, gradient: Tensor) -> list[int]:
        """Moves the tokens once, and returns the texts whose life is over."""
        self.tokens.step(gradient, self.config.token_rate)
        self.left -= 1
        return (self.left <= 0).nonzero().flatten().tolist()

    def begin_anew(self, row: int) -> None:
        """Puts fresh tokens into a random target prompt in a text's place."""
        kind, count = KINDS[row]
        shortest, longest = self.config.shortest_life, self.config.longest_life
        prompt = self._below(len(self.words.prompts))
        first, last = self.words.names[prompt]
        name = self.table[self.words.prompts[prompt][first]]
        self.tokens.begin_anew(row, self._start(name))
        self.left[row] = shortest + self._below(longest - shortest + 1)
        self.prompt[row] = prompt
        filled = framed(self.words.prompts[prompt], (first, last), kind, count)[: self.ids.shape[1]]
        filled += [self.pad] * (self.ids.shape[1] - len(filled))
        self.ids[row] = torch.tensor(filled)

    def state(self) -> dict[str, Tensor]:
        """Returns all that later steps depend on, besides the generator."""
        own = {"ids": self.ids, "prompt": self.prompt, "left": self.left}
        return own | {f"tokens.{name}": value for name, value in self.tokens.state().items()}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Goes on from a state."""
        self.tokens.resume({name.removeprefix("tokens."): value for name, value in state.items()})
        for name in ("ids", "prompt", "left"):
            getattr(self, name).copy_(state[name])

    def _start(self, name: Tensor) -> Tensor:
        """Returns tokens (K, E) to begin from: known ones, some of them somewhere on the way to the name's (E,)."""
        known = torch.rand((), generator=self.generator) < NAMED_START and bool(self.words.starts)
        chosen = [self._below(len(self.words.starts) if known else len(self.table)) for _ in range(MOST_FREE)]
        start = self.table[[self.words.starts[place] for place in chosen] if known else chosen]
        near, share = torch.rand(2, generator=self.generator).tolist()
        return torch.lerp(start, name.expand_as(start), share) if near < NEAR_START else start

    def _below(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self.generator))


def framed(prompt: Sequence[int], name: tuple[int, int], kind: str, count: int) -> list[int]:
    """Returns a prompt's ids with free tokens in place of its name, in front of it, or in place of all of it.

    >>> framed([0, 5, 6, 7, 9], (2, 3), "name", 2)
    [0, 5, -1, -1, 7, 9]
    >>> framed([0, 5, 6, 7, 9], (2, 3), "prefix", 2)
    [0, -1, -1, 5, 6, 7, 9]
    >>> framed([0, 5, 6, 7, 9], (2, 3), "alone", 2)
    [0, -1, -1, 9]
    """
    before, after = {"name": name, "prefix": (1, 1), "alone": (1, len(prompt) - 1)}[kind]
    return [*prompt[:before], *[FREE] * count, *prompt[after:]]


def encoded(encoder: Any, embedded: Tensor) -> Tensor:
    """Returns what a text encoder makes of embeddings of tokens (B, T, E), as (B, T, D) in their dtype."""

    def put(layer: nn.Module, given: Any, found: Tensor) -> Tensor:
        return embedded.to(found)

    handle = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        ids = torch.zeros(embedded.shape[:2], dtype=torch.long, device=embedded.device)
        text: Tensor = encoder(ids)[0]
    finally:
        handle.remove()
    return text.to(embedded)

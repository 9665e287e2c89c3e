"""One concept's map in training: it erases and holds anchors still, while learned tokens try to bring the concept back.

In the norm of M (what a change of the text does to all keys and values), relative to the step from target to surrogate:

    erase   |t + δ(t) − n − η (n − t)|²                  over the target's tokens t and the surrogate's n
    anchor  λ |δ(a)|²                                    over anchors' tokens, some mixed, some moved towards t
    near    max(0, 1 − ‖read(z + δ(z)) − read(t)‖² / m)  over learned texts z, with margin m

Each step of the map, the learned texts take one that brings `read` nearer to the target's.
"""

# Axes: P learned texts, B texts, T tokens, D text width, H units, L attentions.

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.pinpoint.records import learning_rate
from cpe.methods.robust.adam import Adam
from cpe.methods.robust.anchors import Anchors
from cpe.methods.robust.config import RobustConfig
from cpe.methods.robust.maps import TextMap, Whitening, fresh_units
from cpe.methods.robust.population import MOST_FREE, Population, words_of
from cpe.methods.robust.reading import Reader, distances
from cpe.methods.robust.strays import Strays
from cpe.models.attachment import network_of

PADS = 8  # tokens of padding that learned texts are read with, for all that a whole prompt has
QUERIES_LAST = 4  # steps
STATISTIC_TOKENS = 32_768  # of anchors, that say how they spread
SHRINKAGE = 0.05


@dataclass(frozen=True)
class Losses:
    """What a step saw before it moved anything: of the map, and how near the learned texts come."""

    erase: float
    anchor: float
    near: float


@dataclass
class Goal:
    """How the target prompts are read at the queries of some steps, and how far the surrogate's lie off."""

    queries: list[Tensor]
    target: list[Tensor]
    scale: Tensor


class Game:
    """One concept in training.

    Args:
        lesson: what it is learned from.
        texts: the embeddings of its prompts.
        pipe: the base model, which stays as it is.
        gram: M, (D, D).
        config: of the training.

    Raises:
        ValueError: the model has several text encoders, there are no anchors, or a prompt is cut before its name
            ends.
    """

    def __init__(self, lesson: Lesson, texts: Encoded, pipe: Any, gram: Tensor, config: RobustConfig) -> None:
        if getattr(pipe, "text_encoder_2", None) is not None or getattr(pipe, "text_encoder", None) is None:
            raise ValueError(
                f"{type(pipe).__name__} has not one text encoder, through which tokens can be learned; take the "
                "method cpe for it"
            )
        if not lesson.anchors:
            raise ValueError(f"{lesson.concept!r} has no anchors; give it at least one")
        self.config, self.gram, self.step = config, gram, 0
        self.generator = torch.Generator().manual_seed(lesson.seed)
        self.target, self.surrogate = (
            texts.of(prompt.text for prompt in prompts).to(gram) for prompts in (lesson.target, lesson.surrogate)
        )
        self.step_length = self._size(self.surrogate - self.target)
        words, (tokens, width) = words_of(lesson, pipe.tokenizer), self.target.shape[1:]
        pad, encoder = pipe.tokenizer.pad_token_id, pipe.text_encoder
        strays = Strays(words, encoder, pad, tokens, self.generator)
        self.pairs = strays.pairs(config.target_strays)
        every = self.target.flatten(0, 1)
        self.anchors = Anchors(lesson, texts, strays.anchors(config.strays), every, config, self.generator)
        length = min(tokens, max(map(len, words.prompts)) + MOST_FREE + PADS)
        self.reader = Reader(network_of(pipe), gram, tokens=tokens, length=length, tail=min(PADS, length - 1))
        self._set_units(length)
        self.memory = gram.new_zeros(0, length, width)  # learned texts of the past
        self.memory_prompt = torch.zeros(0, dtype=torch.long, device=gram.device)
        self.population = Population(words, encoder, pad, self.memory, config, self.generator)
        self.goal: Goal | None = None

    def _set_units(self, length: int) -> None:
        drawn = self.anchors.tokens(STATISTIC_TOKENS)
        self.whitening = Whitening.of(drawn, SHRINKAGE)
        seen = self.whitening.white(self.target[:, 1:length].flatten(0, 1))
        self.units = Adam(fresh_units(seen, self.whitening.white(drawn), self.config.units, self.generator))

    def map(self) -> TextMap:
        """Returns the map as it is now."""
        return TextMap(*(part.detach().clone() for part in self.whitening.map_of(self.units.value)))

    def take(self) -> Losses:
        """Takes one step of the map, and in the game one of the learned texts."""
        playing = self.step - self.config.alone_steps
        with torch.enable_grad():
            units = self.units.value.detach().requires_grad_()
            found = self.whitening.map_of(units)
            erase, anchor = self.erase_loss(found), self.anchor_loss(found)
            loss, near = erase + self.config.anchor_weight * anchor, torch.ones(())
            if playing >= 0:
                near = self._play(found, playing)
                loss = loss + (1 - near / self.config.margin).relu().mean()
            (gradient,) = torch.autograd.grad(loss, units)
        self.units.step(gradient, self._rate(playing))
        self.step += 1
        return Losses(erase.item(), anchor.item(), near.mean().item())

    def erase_loss(self, found: TextMap) -> Tensor:
        """Returns how far the target is from where it should go, in its prompts and in some with words put in."""
        some = torch.randint(len(self.pairs[0]), (len(self.target),), generator=self.generator)
        target, surrogate = (
            torch.cat([own, others[some].to(own)])
            for own, others in zip((self.target, self.surrogate), self.pairs, strict=True)
        )
        wanted = (1 + self.config.strength) * (surrogate - target)
        return self._size(found.change(target) - wanted) / self.step_length

    def anchor_loss(self, found: TextMap) -> Tensor:
        """Returns how far random tokens of anchors are moved."""
        change = found.change(self.anchors.disturbed())
        return (change @ self.gram * change).sum(dim=-1).mean() / self.step_length

    def nearness(self, found: TextMap, texts: Tensor, prompts: Tensor) -> Tensor:
        """Returns how far erased texts are read from target prompts, as a share of the surrogate's distance, (B,).

        Args:
            found: the map.
            texts: (B, T, D), cut.
            prompts: which target prompt each is compared with, (B,).
        """
        assert self.goal is not None
        read = self.reader.read(texts + found.change(texts), self.goal.queries)
        return (distances(read, [each[prompts] for each in self.goal.target]) / self.goal.scale).mean(dim=1)

    def draw_goal(self) -> None:
        """Draws fresh queries and reads target and surrogate at them."""
        queries = self.reader.queries(self.config.queries, self.generator)
        length = len(self.reader.counts)
        with torch.no_grad():
            target, surrogate = (self.reader.read(x[:, :length], queries) for x in (self.target, self.surrogate))
        self.goal = Goal(queries, target, distances(target, surrogate).mean(dim=0))

    def _play(self, found: TextMap, playing: int) -> Tensor:
        """Moves the learned texts, and returns how near they and some of the past's come, (B,)."""
        if playing % QUERIES_LAST == 0 or self.goal is None:
            self.draw_goal()
        people = self.population
        tokens = people.tokens.value.detach().clone().requires_grad_()
        texts, prompts = people.texts(tokens), people.prompt.clone()
        past = torch.randint(max(1, len(self.memory)), (self.config.replay,), generator=self.generator)
        past = past[: self.config.replay * bool(len(self.memory))].to(self.memory.device)
        near = self.nearness(
            found, torch.cat([texts, self.memory[past]]), torch.cat([prompts, self.memory_prompt[past]])
        )
        (gradient,) = torch.autograd.grad(near[: len(texts)].sum(), tokens, retain_graph=True)
        for row in people.step(gradient):
            kept = self.config.remembered
            self.memory = torch.cat([self.memory, texts[row : row + 1].detach()])[-kept:]
            self.memory_prompt = torch.cat([self.memory_prompt, prompts[row : row + 1]])[-kept:]
            people.begin_anew(row)
        return near

    def _rate(self, playing: int) -> float:
        if playing < 0:
            return learning_rate(self.step, self.config.alone_steps, peak=self.config.rate, warmup=0, cycles=1)
        return learning_rate(playing, self.config.game_steps, peak=self.config.game_rate, warmup=0, cycles=1)

    def _size(self, change: Tensor) -> Tensor:
        """Returns the mean square, in the norm of M, of a change (B, T, D) of all tokens but the first."""
        change = change[:, 1:]
        return (change @ self.gram * change).sum(dim=-1).mean()

    def state(self) -> dict[str, Tensor]:
        """Returns all that the rest of the training depends on, at a step that draws fresh queries."""
        own = {"memory": self.memory, "memory_prompt": self.memory_prompt, "generator": self.generator.get_state()}
        own |= {f"units.{name}": value for name, value in self.units.state().items()}
        return own | {f"population.{name}": value for name, value in self.population.state().items()}

    def resume(self, step: int, state: dict[str, Tensor]) -> None:
        """Goes on from a state."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}

        self.step, self.goal = step, None
        self.memory, self.memory_prompt = (state[name].to(self.gram.device) for name in ("memory", "memory_prompt"))
        self.units.resume(part("units."))
        self.population.resume(part("population."))
        self.generator.set_state(state["generator"])

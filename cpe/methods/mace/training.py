"""MACE's adapters: for each concept by itself, ΔW = up · down at every key and value matrix, until attention leaves it.

What a step draws is a function of the concept's seed and the step's number, so that a training that is killed and
started again ends in the same adapters.
"""

# Axes: C latent channels, T tokens, D text width, O projection width, S adapter rank, F numbers of all adapters.

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpe.methods.checkpoint import Checkpoint
from cpe.methods.lessons import Encoded, Lesson, Step
from cpe.methods.mace.closed import Factors
from cpe.methods.mace.config import MaceConfig
from cpe.methods.mace.suppression import Watched

CHECKPOINT_EVERY = 25  # steps; and after each concept
CURVE_POINTS = 20  # losses kept of a concept
SLOPE, EARLY, LATE = 0.05, 200, 400  # of the times at which adapters learn, in thousandths of the schedule


@dataclass(frozen=True)
class Scene:
    """What a concept's adapters learn on.

    Attributes:
        lesson: the concept.
        draw: gives its pictures' latents, (pictures, C, height, width).
        suppressed: by prompt, the tokens that lose attention, (T,) bool: the name's and the ends of text.
    """

    lesson: Lesson
    draw: Callable[[], Tensor]
    suppressed: Mapping[str, Tensor]

    @cached_property
    def pictures(self) -> Tensor:
        """Its pictures' latents, drawn when they are first needed."""
        return self.draw()


class Adapters:
    """The adapters of all concepts in training, one concept after the other.

    Args:
        scenes: a concept each.
        texts: the embeddings of their prompts.
        watched: the network.
        refined: W₁ (O, D) by module path.
        config: the settings.
        identity: what determines the training, by name, as plain values.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        texts: Encoded,
        watched: Watched,
        refined: Mapping[str, Tensor],
        config: MaceConfig,
        identity: dict[str, Any],
    ) -> None:
        self.scenes, self.texts, self.watched, self.config, self.identity = scenes, texts, watched, config, identity
        self.refined = {path: weight.to(watched.device) for path, weight in refined.items()}
        self.found: list[Tensor] = []  # of the concepts that are done, (F,) each
        self.step = 0
        self.losses: list[list[float]] = [[] for _ in scenes]
        self._begin()

    def _begin(self) -> None:
        """Gives the next concept fresh adapters, which change nothing."""
        rank, parts = self.config.rank, []
        generator = _source(self._seed, "start")
        for weight in self.refined.values():
            out, width = weight.shape
            down = torch.randn(rank, width, generator=generator) / rank
            parts += [down.flatten(), torch.zeros(out * rank)]
        self.flat = torch.cat(parts).to(self.watched.device).requires_grad_()
        rate, decay = self.config.learning_rate, self.config.weight_decay
        self.optimizer = torch.optim.AdamW([self.flat], lr=rate, weight_decay=decay)

    @property
    def _seed(self) -> int:
        return self.scenes[min(len(self.found), len(self.scenes) - 1)].lesson.seed

    def factors(self, flat: Tensor) -> dict[str, Factors]:
        """Returns adapters by module path, out of one row (F,) of their numbers."""
        rank, at, found = self.config.rank, 0, {}
        for path, weight in self.refined.items():
            out, width = weight.shape
            down = flat[at : at + rank * width].reshape(rank, width)
            up = flat[at + rank * width : at + rank * (width + out)].reshape(out, rank)
            at += rank * (width + out)
            found[path] = Factors(up, down)
        return found

    def take_step(self, scene: Scene) -> float:
        """Takes one step of a concept's adapters, and returns the loss before it."""
        generator = _source(scene.lesson.seed, self.step)
        prompts, device = scene.lesson.target, self.watched.device
        prompt = prompts[int(torch.randint(len(prompts), (), generator=generator))].text
        picture = int(torch.randint(len(scene.pictures), (), generator=generator))
        latents = scene.pictures[picture : picture + 1].to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        time = torch.multinomial(time_weights(self.watched.times), 1, generator=generator).to(device)
        own = self.factors(self.flat)
        weights = {path: weight + own[path].up @ own[path].down for path, weight in self.refined.items()}
        loss = self.watched.attention_to(
            scene.suppressed[prompt].to(device),
            weights,
            self.watched.noised(latents, noise, time),
            time,
            self.texts.of([prompt]).to(device),
        )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([self.flat], self.config.gradient_clip)
        self.optimizer.step()
        return loss.item()

    def finish(self, checkpoint: Path | None, done: Step) -> list[dict[str, Factors]]:
        """Trains what is left, and returns each concept's adapters by module path, on the CPU.

        Args:
            checkpoint: file that is written every so many steps and after each concept.
            done: called after each step.
        """
        while len(self.found) < len(self.scenes):
            place = len(self.found)
            scene = self.scenes[place]
            while self.step < self.config.steps:
                loss = self.take_step(scene)
                if self.step in curve_steps(self.config.steps):
                    self.losses[place].append(loss)
                self.step += 1
                if checkpoint is not None and self.step % CHECKPOINT_EVERY == 0 and self.step < self.config.steps:
                    self.save(checkpoint)
                done(scene.lesson.concept)
            self.found.append(self.flat.detach().clone())
            self.step = 0
            self._begin()
            if checkpoint is not None:
                self.save(checkpoint)
        return [self.factors(flat.cpu()) for flat in self.found]

    @property
    def taken(self) -> int:
        """Steps that have been taken of all."""
        return len(self.found) * self.config.steps + self.step

    def save(self, path: Path) -> None:
        """Writes everything that the rest of the training depends on, all at once or not at all."""
        tensors = {"flat": self.flat, **{f"found.{place}": flat for place, flat in enumerate(self.found)}}
        state = self.optimizer.state_dict()["state"].get(0, {})
        tensors |= {f"optimizer.{name}": value for name, value in state.items()}
        plain = {"step": self.step, "losses": self.losses, "found": len(self.found)}
        Checkpoint(self.identity, plain, tensors).write(path)

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint, if there is one.

        Raises:
            CheckpointError: it is damaged, or of another training.
        """
        found = Checkpoint.read(path, expected=self.identity)
        if found is None:
            return
        device = self.watched.device
        self.step, self.losses = found.plain["step"], found.plain["losses"]
        self.found = [found.tensors[f"found.{place}"].to(device) for place in range(found.plain["found"])]
        self._begin()
        with torch.no_grad():
            self.flat.copy_(found.tensors["flat"])
        own = {n.removeprefix("optimizer."): t for n, t in found.tensors.items() if n.startswith("optimizer.")}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": {0: own} if own else {}, "param_groups": groups})


def curve_steps(steps: int) -> list[int]:
    """Returns the steps of a concept whose losses are kept."""
    return sorted({*range(0, steps, max(1, steps // CURVE_POINTS)), steps - 1})


def time_weights(times: int) -> Tensor:
    """Returns how often adapters learn at each time of the schedule, (times,): most often in its second fifth.

    Source: MACE, equation 6, for a schedule of 1000 times.
    """
    at = torch.arange(times) * (1000 / times)
    return torch.sigmoid(SLOPE * (at - EARLY)) - torch.sigmoid(SLOPE * (at - LATE))


def _source(seed: int, step: object) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

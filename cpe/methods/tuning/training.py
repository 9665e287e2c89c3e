"""Trains a network towards a goal, step by step; killed and started again, it ends in the same weights."""

# Axes: B pictures, C latent channels.

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpe.methods.checkpoint import Checkpoint
from cpe.methods.lessons import Step
from cpe.methods.tuning.config import TuningConfig
from cpe.methods.tuning.network import Student

CHECKPOINT_EVERY = 50
CURVE_POINTS = 60


class Goal(ABC):
    """What a training lowers, and what is drawn for it beforehand.

    Attributes:
        preparations: how many times something is drawn before the first step.
        taught_passes: passes of the untouched network that a picture of a step takes, on average.
        prepared_passes: those that a preparation takes, of `prepared_pictures` pictures each.
    """

    preparations: int = 0
    taught_passes: float
    prepared_passes: int = 0
    prepared_pictures: int = 0

    def prepared(self, number: int) -> Tensor:
        """Draws what is drawn beforehand, (B, C, height, width); numbers count from 0."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing beforehand")

    @abstractmethod
    def loss(self, step: int, drawn: Sequence[Tensor]) -> Tensor:
        """Returns the loss of a step, which draws by the step's number alone.

        Args:
            step: from 0.
            drawn: all that was drawn beforehand.
        """


class Training:
    """A network in training: what a checkpoint holds.

    Args:
        student: what learns.
        goal: what is lowered.
        steps: in all.
        config: rate, decay and clipping.
        identity: what determines the training, as plain values.
    """

    def __init__(
        self, student: Student, goal: Goal, steps: int, config: TuningConfig, identity: dict[str, Any]
    ) -> None:
        self.student, self.goal, self.config, self.identity = student, goal, config, identity
        self.total, self.steps, self.taken = goal.preparations + steps, steps, 0
        self.drawn: list[Tensor] = []
        self.curve: list[dict[str, float]] = []
        self.optimizer = torch.optim.AdamW(
            list(student.learning.values()), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def finish(self, begin: Callable[[int, int], Step], checkpoint: Path) -> None:
        """Takes whatever steps are left, after resuming from the checkpoint if there is one.

        Args:
            begin: as in `Bench`.
            checkpoint: file to resume from, written every so many steps and at the end.

        Raises:
            CheckpointError: the checkpoint is damaged or of another training.
        """
        self.resume(checkpoint)
        done = begin(self.total, self.taken)
        while self.taken < self.total:
            said = self.advance()
            if self.taken % CHECKPOINT_EVERY == 0 or self.taken == self.total:
                self.save(checkpoint)
            done(said)

    def advance(self) -> str:
        """Draws what is drawn beforehand, or takes a step; returns which, in a word."""
        number = self.taken - self.goal.preparations
        if number < 0:
            self.drawn.append(self.goal.prepared(self.taken))
        else:
            self._note(number, self.step(number))
        self.taken += 1
        return "pictures" if number < 0 else "training"

    def step(self, number: int) -> float:
        """Takes a step and returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.goal.loss(number, self.drawn)
        loss.backward()
        if self.config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.student.learning.values(), self.config.gradient_clip)
        self.optimizer.step()
        return loss.item()

    def save(self, path: Path) -> None:
        """Writes everything that the rest of the training depends on, all at once or not at all."""
        tensors = {f"drawn.{number}": value for number, value in enumerate(self.drawn)}
        for name, value in self.student.learning.items():
            tensors[f"weight.{name}"] = value
            tensors |= {f"adam.{key}.{name}": state for key, state in self.optimizer.state[value].items()}
        Checkpoint(self.identity, {"taken": self.taken, "curve": self.curve}, tensors).write(path)

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint, if there is one."""
        found = Checkpoint.read(path, expected=self.identity)
        if found is None:
            return
        self.taken, self.curve = found.plain["taken"], found.plain["curve"]
        count = min(self.taken, self.goal.preparations)
        self.drawn = [self.student.moved(found.tensors[f"drawn.{number}"]) for number in range(count)]
        with torch.no_grad():
            for name, value in self.student.learning.items():
                value.copy_(found.tensors[f"weight.{name}"])
                if self.taken > self.goal.preparations:
                    self.optimizer.state[value] = self._adam(found.tensors, name)

    def _adam(self, tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """Returns Adam's state of one weight; its count of steps stays where Adam keeps it."""
        state = {key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        return {key: value if key == "step" else self.student.moved(value) for key, value in state.items()}

    def _note(self, number: int, loss: float) -> None:
        if number % max(1, self.steps // CURVE_POINTS) == 0 or number == self.steps - 1:
            self.curve.append({"step": number, "loss": loss})

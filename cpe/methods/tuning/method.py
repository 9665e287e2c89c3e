"""What ways of erasing that train the network have in common: one network for all concepts, stored as its change."""

# Axes: B prompts, T tokens, D text width.

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from cpe.methods.base import IN_WEIGHTS, Method
from cpe.methods.erased import METHOD_KEY, Erased
from cpe.methods.lessons import Bench, Curve, Encoded, Lesson, Piece, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from cpe.methods.tuning.diffusion import Diffusion
    from cpe.methods.tuning.network import Student
    from cpe.methods.tuning.training import Goal, Training

TIMED = 3  # times that a pass and a step are taken to time them


class Tuning(Method):
    """A way of erasing that trains some layers of the network on all concepts together."""

    removal = IN_WEIGHTS
    joint, file_name = True, "layers.safetensors"

    @abstractmethod
    def paths(self, pipe: Any) -> list[str]:
        """Returns the layers that learn.

        Raises:
            ValueError: the network has no cross-attention that the methods cover.
        """

    @abstractmethod
    def goal(
        self, lessons: Sequence[Lesson], texts: Encoded, student: "Student", diffusion: "Diffusion", config: Any
    ) -> "Goal":
        """Returns what the training lowers."""

    def training(self, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: Any) -> "Training":
        """Returns a training that stands before its first step."""
        from cpe.methods.tuning.diffusion import Diffusion
        from cpe.methods.tuning.network import Student
        from cpe.methods.tuning.training import Training

        student = Student(pipe, self.paths(pipe))
        diffusion = Diffusion(
            pipe,
            student,
            texts.empty,
            sampling_steps=config.sampling_steps,
            guidance_scale=config.guidance_scale,
        )
        identity = {
            **{f"config.{name}": value for name, value in config.model_dump().items()},
            **_identity(lessons, texts),
            "method": f"{self.name} {self.version}",
            "base model": student.known_by(),
            "device": f"{student.device.type} {student.dtype}",
        }
        goal = self.goal(lessons, texts, student, diffusion, config)
        return Training(student, goal, config.steps_in_all(len(lessons)), config, identity)

    def train(self, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: Any, bench: Bench) -> list[Piece]:
        """Trains one network on all concepts, and returns what was added to its weights."""
        from cpe.methods.weights import layer_tensors

        training = self.training(lessons, texts, pipe, config)
        training.finish(bench.begin, bench.checkpoint)
        concepts = json.dumps([lesson.concept for lesson in lessons])
        return [
            Piece(
                layer_tensors(training.student.deltas()),
                {METHOD_KEY: self.name, "concepts": concepts},
                {"losses": training.curve},
            )
        ]

    def load(self, paths: Sequence[Path]) -> Erased:
        """Reads one training; two of them cannot be put on one model, since each was trained alone."""
        from cpe.methods.weights import read_layers

        return read_layers(paths)

    def seconds(self, pipe: Any, text: "Tensor", config: Any, concepts: int, cache: Path) -> float:
        """Returns a concept's share, from a few passes of the untouched network and a few steps of learning."""
        rows = {str(number): number for number in range(len(text))} | {"": 0}
        half = len(text) // 2
        own, other = (tuple(Prompt(str(n), str(n)) for n in part) for part in (range(half), range(half, 2 * half)))
        lessons = [Lesson(str(number), own, other, own + other, number) for number in range(concepts)]
        training = self.training(lessons, Encoded(rows, text), pipe, config)
        taught, learned = timed(training, config.batch, text)
        goal = training.goal
        step = goal.taught_passes * taught + learned
        prepared = goal.prepared_passes * taught * goal.prepared_pictures / config.batch
        return (training.steps * step + goal.preparations * prepared) / concepts

    def size(self, pipe: Any, config: Any, concepts: int) -> int:
        """Returns the bytes of the change, float32, which so many concepts share."""
        from cpe.methods.tuning.network import parameters_of
        from cpe.models.attachment import network_of

        return 4 * sum(value.numel() for value in parameters_of(network_of(pipe), self.paths(pipe)))

    def curves(self, config: Mapping[str, Any], losses: Sequence[Mapping[str, Any]]) -> list[Curve]:
        """Returns the loss of the whole training as one curve."""
        return [Curve("loss", [[(point["step"], point["loss"]) for point in losses]])] if losses else []


def _identity(lessons: Sequence[Lesson], texts: Encoded) -> dict[str, Any]:
    """Returns what determines a training of what it learns from: names and prompts, and their embeddings by a hash."""
    from cpe.methods.checkpoint import hash_of

    # A text encoder's last token has seen the whole prompt.
    rows = [texts.rows[text] for text in ["", *(text for lesson in lessons for text in lesson.texts)]]
    return {
        "concepts": [lesson.concept for lesson in lessons],
        "seeds": [lesson.seed for lesson in lessons],
        "prompts": [[len(lesson.target), len(lesson.surrogate), *lesson.texts] for lesson in lessons],
        "texts": hash_of(texts.table[rows, -1]),
    }


def timed(training: "Training", batch: int, text: "Tensor") -> tuple[float, float]:
    """Returns seconds of a pass of the untouched network over a batch, and of a step of what learns."""
    import torch

    student = training.student
    latents = torch.zeros(batch, *student.shape, device=student.device, dtype=student.dtype)
    times = torch.full((batch,), 1, device=student.device)
    given = student.moved(text[:1]).expand(batch, -1, -1)

    def learn() -> None:
        training.optimizer.zero_grad(set_to_none=True)
        student.learned(latents, times, given).square().mean().backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()

    return _seconds(lambda: student.taught(latents, times, given)), _seconds(learn)


def _seconds(act: Callable[[], Any]) -> float:
    import torch

    spans = []
    for _ in range(TIMED):
        started = time.perf_counter()
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spans.append(time.perf_counter() - started)
    return median(spans)

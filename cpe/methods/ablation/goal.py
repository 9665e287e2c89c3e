"""Concept Ablation's goal: a concept's prompt predicts what its surrogate's does (Kumari et al., ICCV 2023).

Per picture, with v the network that learns, v₀ the untouched one, c a prompt of the concept and n the surrogate's in
the same template,

    |v(x_t, c) − v₀(x_t, n)|²

at x_t, a picture of n by the untouched model with noise on it. Beyond the paper, some pictures hold an anchor a,
|v(x_t, a) − v₀(x_t, a)|² at noised pictures of a: what was not to be erased moves along otherwise.
"""

# Axes: B pictures, C latent channels, T tokens, D text width.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cpe.methods.ablation.config import AblationConfig
from cpe.methods.ablation.drawn import anchor_texts, surrogate_texts
from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.tuning.diffusion import Diffusion
from cpe.methods.tuning.draws import below, in_turn, source
from cpe.methods.tuning.network import Student
from cpe.methods.tuning.training import Goal


class Chosen(NamedTuple):
    """One picture of a step: the prompt that learns, whose prediction it learns, and the picture drawn beforehand."""

    asked: str
    wanted: str
    picture: int


class AblationGoal(Goal):
    """The goal of all concepts together.

    Args:
        lessons: the concepts.
        texts: the embeddings of their prompts.
        student: what learns, and the untouched network.
        diffusion: the untouched model's way.
        config: what is drawn.

    Raises:
        ValueError: anchors are to be held, and there are none.

    Source: Concept Ablation, equation 5 (model-based), with the untouched network as teacher.
    """

    taught_passes = 1.0

    def __init__(
        self, lessons: Sequence[Lesson], texts: Encoded, student: Student, diffusion: Diffusion, config: AblationConfig
    ) -> None:
        self.lessons, self.texts = lessons, texts
        self.student, self.diffusion, self.config = student, diffusion, config
        self.seeds = [lesson.seed for lesson in lessons]
        surrogates = surrogate_texts(lessons, config.pictures)
        anchors = anchor_texts(lessons, config.anchor_pictures) if config.anchors else []
        if config.anchors and not anchors:
            raise ValueError(f"a share of {config.anchors:g} of the pictures is to hold anchors, and there are none")
        self.drawn_texts = surrogates + anchors
        self.of_anchors = range(len(surrogates), len(self.drawn_texts))
        self.of_surrogate: dict[str, list[int]] = {}
        for place, text in enumerate(surrogates):
            self.of_surrogate.setdefault(text, []).append(place)
        self.preparations = -(-len(self.drawn_texts) // config.drawn_at_once)
        self.prepared_pictures = config.drawn_at_once
        self.prepared_passes = diffusion.passes * diffusion.sampling_steps

    def prepared(self, number: int) -> Tensor:
        """Draws some of the pictures, (B, C, height, width), each from noise of its own."""
        first = number * self.config.drawn_at_once
        places = range(first, min(first + self.config.drawn_at_once, len(self.drawn_texts)))
        noise = [torch.randn(self.student.shape, generator=source(*self.seeds, "drawn", place)) for place in places]
        text = self.student.moved(self.texts.of(self.drawn_texts[place] for place in places))
        return self.diffusion.walked(
            self.student.moved(torch.stack(noise)), text, [self.diffusion.sampling_steps] * len(places)
        )

    def loss(self, step: int, drawn: Sequence[Tensor]) -> Tensor:
        """Returns the mean squared distance from the goal over a step's pictures and their latents."""
        latents, times, asked, wanted = self.given(step, torch.cat(list(drawn)))
        goal = self.student.taught(latents, times, wanted)
        return (self.student.learned(latents, times, asked) - goal).square().mean()

    def given(self, step: int, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns a step's noised pictures (B, C, height, width), their times (B,), and two texts (B, T, D).

        Args:
            step: from 0.
            pictures: all that were drawn beforehand, (P, C, height, width).
        """
        chosen, noise, times = [], [], []
        for number in range(step * self.config.batch, (step + 1) * self.config.batch):
            own = source(*self.seeds, number)
            chosen.append(self.chosen(number, own))
            times.append(self._time(own))
            noise.append(torch.randn(self.student.shape, generator=own))
        at = torch.tensor(times, device=self.student.device)
        clean = pictures[[one.picture for one in chosen]]
        latents = self.diffusion.noised(clean, self.student.moved(torch.stack(noise)), at)
        asked, wanted = (self.texts.of(getattr(one, role) for one in chosen) for role in ("asked", "wanted"))
        return latents, at, self.student.moved(asked), self.student.moved(wanted)

    def chosen(self, number: int, own: torch.Generator) -> Chosen:
        """Returns what the picture of a number is about; anchors are spread evenly among the concepts."""
        held = int(number * self.config.anchors)  # anchors before this one
        if int((number + 1) * self.config.anchors) > held:
            picture = self.of_anchors[in_turn([*self.seeds, -1], len(self.of_anchors), held)]
            return Chosen(self.drawn_texts[picture], self.drawn_texts[picture], picture)
        lesson = self.lessons[in_turn(self.seeds, len(self.lessons), number - held)]
        prompt = below(len(lesson.target), own)
        surrogate = lesson.surrogate[prompt].text
        places = self.of_surrogate[surrogate]
        return Chosen(lesson.target[prompt].text, surrogate, places[below(len(places), own)])

    def _time(self, own: torch.Generator) -> int:
        """Returns a time, of the noisiest tenth or of all."""
        count = self.diffusion.all_times
        noisiest = float(torch.rand((), generator=own)) < self.config.noisiest
        tenth = max(1, count // 10)
        return count - tenth + below(tenth, own) if noisiest else below(count, own)

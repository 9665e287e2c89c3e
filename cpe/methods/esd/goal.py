"""ESD's goal: a concept's prompt predicts what leads away from the concept (Gandikota et al., ICCV 2023).

Per picture, with v the network that learns, v₀ the untouched one, c a prompt of the concept and "" the empty one,

    |v(x_t, c) − (v₀(x_t, "") − η (v₀(x_t, c) − v₀(x_t, "")))|²

at an x_t that the untouched model comes by on its way from noise to c, with guidance. The published formula has noise ε
where v stands: both predictions are the same affine map of the network's output at a given x_t, and the coefficients
sum to 1, so that the goal is the same; a v-predicting network's loss is ε's, but for a factor a time.
"""

# Axes: B pictures, C latent channels, T tokens, D text width.

from collections.abc import Sequence

import torch
from torch import Tensor

from cpe.methods.esd.config import EsdConfig
from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.tuning.diffusion import Diffusion
from cpe.methods.tuning.draws import below, in_turn, source
from cpe.methods.tuning.network import Student
from cpe.methods.tuning.training import Goal


class EsdGoal(Goal):
    """The goal of all concepts together.

    Args:
        lessons: the concepts; surrogates and anchors are not used.
        texts: the embeddings of their prompts.
        student: what learns, and the untouched network.
        diffusion: the untouched model's way.
        config: η and the batch.

    Source: ESD, equation 7; x_t as in section 4.1.
    """

    def __init__(
        self, lessons: Sequence[Lesson], texts: Encoded, student: Student, diffusion: Diffusion, config: EsdConfig
    ) -> None:
        self.lessons, self.texts = lessons, texts
        self.student, self.diffusion, self.config = student, diffusion, config
        self.seeds = [lesson.seed for lesson in lessons]
        self.taught_passes = 2 + diffusion.passes * (diffusion.sampling_steps - 1) / 2

    def loss(self, step: int, drawn: Sequence[Tensor]) -> Tensor:
        """Returns the mean squared distance from the goal over a step's pictures and their latents."""
        text, noise, steps = self.chosen(step)
        latents = self.diffusion.walked(noise, text, steps)
        times = self.diffusion.times(steps)
        goal = self.wanted(latents, times, text)
        return (self.student.learned(latents, times, text) - goal).square().mean()

    def chosen(self, step: int) -> tuple[Tensor, Tensor, list[int]]:
        """Returns a step's texts (B, T, D), noise (B, C, height, width) and how far on its way each picture is."""
        prompts, noise, steps = [], [], []
        for number in range(step * self.config.batch, (step + 1) * self.config.batch):
            lesson = self.lessons[in_turn(self.seeds, len(self.lessons), number)]
            own = source(lesson.seed, number)
            prompts.append(lesson.target[below(len(lesson.target), own)].text)
            steps.append(below(self.diffusion.sampling_steps, own))
            noise.append(torch.randn(self.student.shape, generator=own))
        return self.student.moved(self.texts.of(prompts)), self.student.moved(torch.stack(noise)), steps

    def wanted(self, latents: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """Returns what is to be predicted, (B, C, height, width)."""
        both = torch.cat([text, self.diffusion.empty.expand_as(text)])
        given, none = self.student.taught(torch.cat([latents, latents]), torch.cat([times, times]), both).chunk(2)
        return none - self.config.strength * (given - none)

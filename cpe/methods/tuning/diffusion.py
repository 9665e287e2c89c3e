"""How the untouched model draws for a training: on its own noise schedule, by DDIM, the whole way or a part of it."""

# Axes: B pictures, C latent channels, T tokens, D text width.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpe.methods.tuning.network import Student


class Diffusion:
    """A base model's schedule, and its way from noise to pictures.

    Args:
        pipe: the base model; whatever its sampler is, DDIM walks on its schedule.
        student: whose untouched network draws.
        empty: the empty prompt's embedding, (T, D).
        sampling_steps: of the whole way.
        guidance_scale: on the way.
    """

    def __init__(
        self, pipe: Any, student: Student, empty: Tensor, *, sampling_steps: int, guidance_scale: float
    ) -> None:
        from diffusers import DDIMScheduler

        self.student, self.guidance_scale, self.sampling_steps = student, guidance_scale, sampling_steps
        self.empty = student.moved(empty)
        self.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        self.scheduler.set_timesteps(sampling_steps, device=student.device)

    @property
    def passes(self) -> int:
        """Passes of the network that a step of the way takes."""
        return 1 if self.guidance_scale == 1 else 2

    @torch.no_grad()
    def walked(self, noise: Tensor, text: Tensor, steps: Sequence[int]) -> Tensor:
        """Returns latents (B, C, height, width), each so many steps on the way from its noise to its text.

        Args:
            noise: where they start, (B, C, height, width).
            text: (B, T, D).
            steps: of each picture, 0..sampling_steps.
        """
        latents = noise.clone()
        for number in range(max(steps)):
            going = torch.tensor([steps_of > number for steps_of in steps], device=noise.device)
            time = self.scheduler.timesteps[number]
            predicted = self._guided(latents[going], time, text[going])
            latents[going] = self.scheduler.step(predicted, time, latents[going]).prev_sample
        return latents

    def times(self, steps: Sequence[int]) -> Tensor:
        """Returns the times (B,) at which latents are so many steps on their way."""
        times: Tensor = self.scheduler.timesteps[list(steps)]
        return times

    def noised(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Returns latents with as much noise as they have at these times (B,)."""
        noised: Tensor = self.scheduler.add_noise(latents, noise, times)
        return noised

    @property
    def all_times(self) -> int:
        """Times of the schedule."""
        count: int = self.scheduler.config.num_train_timesteps
        return count

    def _guided(self, latents: Tensor, time: Tensor, text: Tensor) -> Tensor:
        if self.guidance_scale == 1:
            return self.student.taught(latents, time.expand(len(latents)), text)
        both = torch.cat([text, self.empty.expand_as(text)])
        given, none = self.student.taught(torch.cat([latents, latents]), time.expand(len(both)), both).chunk(2)
        return none + self.guidance_scale * (given - none)

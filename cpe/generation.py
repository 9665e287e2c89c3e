"""Draws pictures: every picture from its own prompt and seed, the same in whatever batch it is drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from cpe.config import Profile
from cpe.models import chunks


@dataclass(frozen=True)
class PictureJob:
    """One picture to draw.

    Attributes:
        picture_id: names its file.
        prompt: what is asked for.
        seed: of its starting noise.
    """

    picture_id: str
    prompt: str
    seed: int


def generate(pipe: Any, jobs: Sequence[PictureJob], profile: Profile) -> Iterator[tuple[PictureJob, Image.Image]]:
    """Yields each job with its picture, in order.

    Noise comes from one CPU generator a picture, so neither batch nor device changes where it starts.

    Args:
        pipe: a Stable Diffusion pipeline, perhaps with an eraser attached.
        jobs: what to draw.
        profile: sampler steps, guidance, size, negative prompt and batch.
    """
    for batch in chunks(jobs, profile.batch):
        drawn = pipe(
            [job.prompt for job in batch],
            negative_prompt=[profile.negative_prompt] * len(batch) if profile.negative_prompt else None,
            num_inference_steps=profile.steps,
            guidance_scale=profile.guidance_scale,
            height=profile.height,
            width=profile.width,
            generator=[torch.Generator().manual_seed(job.seed) for job in batch],
        ).images
        yield from zip(batch, drawn, strict=True)

"""Draws pictures: every picture from its own prompt and seed, the same in whatever batch it is drawn."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cpe.terms.chunks import chunks
from cpe.terms.profiles import Profile


@dataclass(frozen=True)
class PictureJob:
    """One picture to draw.

    Attributes:
        picture_id: names its file.
        prompt: what is asked for.
        seed: of its starting noise.
        guidance_scale: its own; None takes the profile's.
        negative_prompt: what to keep away from.
        text: what the network is given in place of the prompt's embedding, (T, D); all jobs of one call have one, or
            none has.
    """

    picture_id: str
    prompt: str
    seed: int
    guidance_scale: float | None = None
    negative_prompt: str = ""
    text: Tensor | None = None


def generate(
    pipe: Any, jobs: Sequence[PictureJob], profile: Profile, *, progress: Callable[[int], Any] | None = None
) -> Iterator[tuple[PictureJob, Image.Image]]:
    """Yields each job with its picture; jobs of one guidance scale come together, otherwise in order.

    Noise comes from one CPU generator a picture, so neither batch nor device changes where it starts.

    Args:
        pipe: a pipeline of a known family, perhaps with an eraser attached; its scheduler is put back afterwards.
        jobs: what to draw.
        profile: sampler, steps, guidance, size and batch.
        progress: called with the number of pictures of each batch, once all of them were taken.

    Raises:
        ValueError: the pipeline draws videos.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    if video := {"num_frames", "frames", "video_length"} & set(takes):
        raise ValueError(
            f"{type(pipe).__name__} draws videos ({video.pop()}); evaluations are of pictures. Its gates train, attach "
            "and erase by Eraser.attach(pipe)"
        )
    exact = {"use_resolution_binning": False} if "use_resolution_binning" in takes else {}  # the profile's own size

    def guidance(job: PictureJob) -> float:
        return profile.guidance_scale if job.guidance_scale is None else job.guidance_scale

    with sampler_of(pipe, profile):
        for scale, alike in groupby(sorted(jobs, key=guidance), key=guidance):
            for batch in chunks(list(alike), profile.batch):
                texts = [job.text for job in batch if job.text is not None]
                asked = {"prompt_embeds": torch.stack(texts).to(pipe.device, pipe.dtype)} if texts else {}
                drawn = pipe(
                    None if texts else [job.prompt for job in batch],
                    **asked,
                    **exact,
                    negative_prompt=[job.negative_prompt for job in batch],
                    num_inference_steps=profile.steps,
                    guidance_scale=scale,
                    height=profile.height,
                    width=profile.width,
                    generator=[torch.Generator().manual_seed(job.seed) for job in batch],
                ).images
                yield from zip(batch, drawn, strict=True)
                if progress is not None:
                    progress(len(batch))


@contextmanager
def sampler_of(pipe: Any, profile: Profile) -> Iterator[None]:
    """Gives the pipeline the profile's sampler, over the base model's own noise schedule, and takes it back."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    own = pipe.scheduler
    if profile.sampler == "ddim":
        pipe.scheduler = DDIMScheduler.from_config(own.config)
    elif profile.sampler == "dpm-solver++":
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(own.config, algorithm_type="dpmsolver++")
    try:
        yield
    finally:
        pipe.scheduler = own

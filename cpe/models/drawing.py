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

from cpe.models.videos import frames_asked
from cpe.terms.chunks import chunks
from cpe.terms.profiles import Profile


@dataclass(frozen=True)
class PictureJob:
    """One picture to draw, perhaps a frame of a video.

    Attributes:
        picture_id: names its file.
        prompt: what is asked for.
        seed: of its starting noise.
        guidance_scale: its own; None takes the profile's.
        negative_prompt: what to keep away from.
        text: what the network is given in place of the prompt's embedding, (T, D); all jobs of one call have one, or
            none has.
        frame: which one of its video, from 0; None: it is a picture by itself.
    """

    picture_id: str
    prompt: str
    seed: int
    guidance_scale: float | None = None
    negative_prompt: str = ""
    text: Tensor | None = None
    frame: int | None = None

    @property
    def drawing(self) -> tuple[Any, ...]:
        """What frames of one video have in common, and nothing else has."""
        return (self.picture_id,) if self.frame is None else (self.prompt, self.seed, self.negative_prompt)


def generate(
    pipe: Any,
    jobs: Sequence[PictureJob],
    profile: Profile,
    *,
    progress: Callable[[int], Any] | None = None,
    videos: Callable[[PictureJob, Sequence[Image.Image]], Any] | None = None,
) -> Iterator[tuple[PictureJob, Image.Image]]:
    """Yields each job with its picture; jobs of one guidance scale come together, otherwise in order.

    Noise comes from one CPU generator a picture, so neither batch nor device changes where it starts. A video is drawn
    once for jobs of its frames that follow each other.

    Args:
        pipe: a pipeline of a known family, perhaps with an eraser attached; its scheduler is put back afterwards.
        jobs: what to draw.
        profile: sampler, steps, guidance, size and batch; of videos, how many frames.
        progress: called with the number of pictures of each batch, once all of them were taken.
        videos: called with all frames of each video, and with the first of its jobs, before its jobs are yielded.

    Raises:
        ValueError: the pipeline draws videos and profile or jobs ask for pictures, or the other way round; or it drew
            fewer frames than were asked for.
    """
    options = options_of(pipe, profile)
    frames_of_jobs = {job.frame for job in jobs}
    if profile.frames is None and frames_of_jobs - {None}:
        raise ValueError(f"frame must be None where profile {profile.name!r} asks for pictures")
    if profile.frames is not None and not frames_of_jobs <= set(range(profile.frames)):
        raise ValueError(f"frame must be from 0 to {profile.frames - 1}, as profile {profile.name!r} asks for videos")

    def guidance(job: PictureJob) -> float:
        return profile.guidance_scale if job.guidance_scale is None else job.guidance_scale

    with sampler_of(pipe, profile):
        for scale, alike in groupby(sorted(jobs, key=guidance), key=guidance):
            together = [list(each) for _, each in groupby(alike, key=lambda job: job.drawing)]
            for batch in chunks(together, profile.batch):
                firsts = [each[0] for each in batch]
                texts = [job.text for job in firsts if job.text is not None]
                asked = {"prompt_embeds": torch.stack(texts).to(pipe.device, pipe.dtype)} if texts else {}
                drawn = pipe(
                    None if texts else [job.prompt for job in firsts],
                    **asked,
                    **options,
                    negative_prompt=[job.negative_prompt for job in firsts],
                    num_inference_steps=profile.steps,
                    guidance_scale=scale,
                    generator=[torch.Generator().manual_seed(job.seed) for job in firsts],
                )
                for group, frames in zip(batch, drawn_of(drawn), strict=True):
                    if len(frames) < (profile.frames or 1):
                        raise ValueError(
                            f"profile {profile.name!r} asks for {profile.frames} frames, {type(pipe).__name__} drew "
                            f"{len(frames)}: ask for a number that it draws (Wan: one more than a multiple of 4; "
                            "LTX-Video: of 8)"
                        )
                    if videos is not None and profile.frames is not None:
                        videos(group[0], frames)
                    yield from ((job, frames[job.frame or 0]) for job in group)
                if progress is not None:
                    progress(sum(len(group) for group in batch))


def options_of(pipe: Any, profile: Profile) -> dict[str, Any]:
    """Returns what a pipeline's call takes so that what it draws has a profile's size.

    Raises:
        ValueError: one of the two is of videos and the other of pictures.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    exact = {"use_resolution_binning": False} if "use_resolution_binning" in takes else {}  # the profile's own size
    return {"height": profile.height, "width": profile.width, **exact, **frames_asked(pipe, profile)}


def drawn_of(output: Any) -> list[list[Image.Image]]:
    """Returns what a call drew: the frames of each video, or each picture by itself."""
    frames = getattr(output, "frames", None)
    return [[picture] for picture in output.images] if frames is None else [list(video) for video in frames]


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

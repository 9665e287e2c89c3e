"""Videos: which pipelines draw them, and their frames as a file that players read."""

import inspect
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cpe.terms.profiles import Profile

COUNTS = ("num_frames", "video_length")  # what pipelines call the number of frames


def frames_asked(pipe: Any, profile: Profile) -> dict[str, Any]:
    """Returns what a pipeline's call takes so that it draws a profile's videos; nothing if both are of pictures.

    Raises:
        ValueError: the pipeline draws videos and the profile has none, or the other way round.
    """
    takes, name = inspect.signature(type(pipe).__call__).parameters, type(pipe).__name__
    argument = next((each for each in COUNTS if each in takes), None)
    if argument is None and profile.frames is not None:
        raise ValueError(
            f"{name} draws pictures, profile {profile.name!r} asks for videos of {profile.frames} frames; take a "
            "profile without `frames`"
        )
    if argument is not None and profile.frames is None:
        raise ValueError(
            f"{name} draws videos, profile {profile.name!r} asks for pictures; take one with `frames`, such as 'video'"
        )
    return {} if argument is None else {argument: profile.frames, "output_type": "pil"}


def can_write() -> bool:
    """Whether the library that writes videos is here (the extra `[video]`); frames need none."""
    return find_spec("av") is not None


def write_video(path: Path, frames: Sequence[Image.Image], frames_per_second: int) -> None:
    """Writes frames as an MP4 file (H.264); a row or column that makes a size odd is left out.

    Args:
        path: of the file.
        frames: of one size.
        frames_per_second: at which they are played.

    Raises:
        ImportError: the extra `[video]` is not installed.
    """
    import av

    width, height = (side // 2 * 2 for side in frames[0].size)
    with av.open(str(path), "w", format="mp4") as file:
        stream: Any = file.add_stream("libx264", rate=frames_per_second)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            pixels = np.asarray(frame.convert("RGB").crop((0, 0, width, height)))  # (height, width, 3)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())

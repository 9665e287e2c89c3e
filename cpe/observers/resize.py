"""Pictures at the size a feature network takes, resized as clean-fid does.

How pictures are resized changes FID by whole points: filters that do not widen with the reduction alias, and rounding
back to bytes adds noise. Here every channel is resized in floating point and never rounded.
"""

# Axes: B pictures, C channels.

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def resized(pictures: Sequence[Image.Image], side: int) -> Tensor:
    """Returns pictures as squares of floating point pixels in 0..255, (B, 3, side, side) float32 on the CPU.

    Pillow's bicubic filter (a = −½, widened by the reduction), channel by channel in float32, then cut to 0..255.
    A picture that has the size already keeps its pixels.

    Args:
        pictures: B pictures of any size; RGB, or what Pillow can turn into it.
        side: pixels.

    Source: Parmar et al., CVPR 2022, section 3; `build_resizer("clean")` of clean-fid.
    """
    pixels = torch.empty(len(pictures), 3, side, side)  # (B, C, side, side)
    for picture, into in zip(pictures, pixels, strict=True):
        for channel, plane in zip(picture.convert("RGB").split(), into, strict=True):
            values = channel.convert("F").resize((side, side), Image.Resampling.BICUBIC)
            plane.copy_(torch.from_numpy(np.array(values)))
    return pixels.clamp_(0, 255)

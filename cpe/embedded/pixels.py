"""Pictures as the embedded classifier and CLIP model take them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE_PX = 64


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Returns (B, 3, 64, 64) in -1..1; pictures of another size are resized."""
    sized = [
        picture if picture.size == (SIZE_PX, SIZE_PX) else picture.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)
        for picture in pictures
    ]
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in sized])  # (B, 64, 64, 3)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0

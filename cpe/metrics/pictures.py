"""Pictures of any mode in RGB, 8 bits a channel."""

import numpy as np
from PIL import Image

READING = 2  # raised when a picture file gives other pixels: what was computed from the former ones is not reused
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # grey with 16 bits, which PIL would clip at 255


def as_rgb(picture: Image.Image) -> Image.Image:
    """Returns a picture in RGB; 16 bits of grey are scaled to 8."""
    if picture.mode in DEEP:
        grey = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        picture = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    return picture.convert("RGB")

"""How far a picture is from another that should be the same: over features of a CLIP model, and pixel by pixel.

The distance is that of LPIPS, without its learned weights and over another network: features of every place, each of
length 1, compared place by place and layer by layer. It sees what accuracy does not: a picture that is still recognised
and has another colour, shape or background.
"""

# Axes: P pictures, L layers, T places (patches), W width of features.

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import normalize

VERSION = 1  # raised when the same pictures would get other values
BATCH = 32
ALIKE_DB = 99.0  # of pictures without any difference, whose ratio has no number


class Mapping(Protocol):
    """What gives a picture's features on the way."""

    identity: str

    def maps(self, pictures: Sequence[Image]) -> list[Tensor]:
        """Returns features of every place, L of (P, T, W)."""


class Mover:
    """Compares pictures with those they should be.

    Args:
        mapping: whose features the distance is over.
    """

    name = "moved"

    def __init__(self, mapping: Mapping) -> None:
        self.mapping, self.identity = mapping, f"{VERSION} {mapping.identity}"

    def compare(self, before: Sequence[Image], after: Sequence[Image]) -> dict[str, NDArray]:
        """Returns how far each picture moved.

        Args:
            before: P pictures.
            after: P pictures, of the same sizes.

        Returns:
            "kept_distance" (P,): the mean over layers and places of ‖x − y‖², of features x and y of length 1, from 0
            to 4, in practice below 2; and "kept_psnr" (P,), in dB, at most 99.

        Source: Zhang et al., CVPR 2018, equation 1, with equal weights.
        """
        if len(before) != len(after):
            raise ValueError(f"pictures must pair up, got {len(before)} and {len(after)}; join them by row id")
        parts = [
            self._distances(before[start : start + BATCH], after[start : start + BATCH])
            for start in range(0, len(before), BATCH)
        ]
        ratios = [psnr(one, other) for one, other in zip(before, after, strict=True)]
        return {"kept_distance": np.concatenate([np.empty(0), *parts]), "kept_psnr": np.array(ratios, dtype=np.float64)}

    @torch.inference_mode()
    def _distances(self, before: Sequence[Image], after: Sequence[Image]) -> NDArray[np.float64]:
        layers = zip(self.mapping.maps(before), self.mapping.maps(after), strict=True)
        apart = [
            (normalize(x.double(), dim=-1) - normalize(y.double(), dim=-1)).square().sum(dim=-1).mean(dim=-1)
            for x, y in layers
        ]  # L of (P,)
        return torch.stack(apart).mean(dim=0).cpu().numpy()


def psnr(before: Image, after: Image) -> float:
    """Returns the peak signal-to-noise ratio of two pictures of 8 bits, in dB; 99 at most."""
    one, other = (np.asarray(picture.convert("RGB"), dtype=np.float64) for picture in (before, after))
    if one.shape != other.shape:
        raise ValueError(f"pictures must have one size, got {before.size} and {after.size}; draw them alike")
    error = ((one - other) ** 2).mean()
    return min(ALIKE_DB, 10 * float(np.log10(255**2 / error))) if error else ALIKE_DB


def place_maps(model: Any, pixels: Tensor) -> list[Tensor]:
    """Returns a CLIPModel's features of every patch after each layer of its vision part, L of (P, T, W)."""
    states = model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    return [state[:, 1:] for state in states[1:]]  # the first place is the whole picture's

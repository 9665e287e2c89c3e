"""Inception features, over which FID and KID are defined: the weights everyone compares by, and who looks with them."""

# Axes: B pictures of a batch, P pictures.

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cpe.observers.base import Missing, Observer
from cpe.observers.inception_network import InceptionNetwork, network_of
from cpe.observers.resize import resized
from wording.foreign import told

FEATURES = 2048
SIDE = 299  # pixels
VERSION = 1  # raised when the same pictures and weights would give other features
WEIGHTS_HASH = "6726825d"  # how the file's sha256 begins
WEIGHTS_NAME = f"pt_inception-2015-12-05-{WEIGHTS_HASH}.pth"
SUFFIXES = (".pth", ".safetensors")
BATCH = 32


class InceptionObserver(Observer):
    """Sees 2048 features in each picture.

    Args:
        network: with its weights; it is put into evaluation and its parameters no longer learn.
        device: it works on.
        batch: pictures at once.
    """

    name = "inception"

    def __init__(self, network: InceptionNetwork, *, device: str | torch.device = "cpu", batch: int = BATCH) -> None:
        self.identity = _identity(network)
        self.device, self.batch = torch.device(device), batch
        # Convolutions on a CPU are half as fast again where channels lie together.
        self.layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]

    @classmethod
    def open(cls, path: Path, *, device: str | torch.device = "cpu", batch: int = BATCH) -> "InceptionObserver":
        """Returns the observer with the weights of a file. Only tensors are read, never pickled objects.

        Args:
            path: `pt_inception-2015-12-05-6726825d.pth`, a `.safetensors` of the same tensors, or a folder with either.
            device: it works on.
            batch: pictures at once.

        Raises:
            Missing: no such file.
            ValueError: the file is damaged, or holds something other than this network's weights.
        """
        named = [path / Path(WEIGHTS_NAME).with_suffix(suffix) for suffix in SUFFIXES]
        files = [each for each in (path, *named) if each.is_file()]
        if not files:
            raise Missing(
                f"Inception's weights are missing: put {WEIGHTS_NAME}, published by mseitzer/pytorch-fid on GitHub "
                f"(release fid_weights), or its tensors as .safetensors, at "
                f"{path if path.suffix in SUFFIXES else path / WEIGHTS_NAME}"
            )
        return cls(network_of(_tensors(files[0]), str(files[0])), device=device, batch=batch)

    @torch.inference_mode()
    def look(self, pictures: Sequence[Image], prompts: Sequence[str]) -> dict[str, NDArray]:
        """Returns features "inception" (P, 2048) float32; the prompts are not looked at.

        Convolutions are never computed in TF32, which a GPU would do by default and which keeps three digits.
        """
        seen = np.empty((len(pictures), FEATURES), dtype=np.float32)
        for start in range(0, len(pictures), self.batch):
            pixels = resized(pictures[start : start + self.batch], SIDE)  # (B, 3, 299, 299)
            pixels = pixels.to(self.device, memory_format=self.layout)
            with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                seen[start : start + len(pixels)] = self.network(pixels).cpu().numpy()
        return {"inception": seen}


def _tensors(path: Path) -> dict[str, Tensor]:
    """Returns a file's tensors; the released one must have the hash that it is named by."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or cut off ({told(error)}); fetch it again") from None
    if path.stem.endswith(WEIGHTS_HASH):
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if not found.startswith(WEIGHTS_HASH):
            raise ValueError(f"{path} is damaged or cut off: its sha256 begins {found[:8]}; fetch it again")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in too many ways to name
        reason = told(str(error).splitlines()[0]) if isinstance(error, pickle.UnpicklingError) else type(error).__name__
        raise ValueError(f"{path} is damaged, or holds more than tensors ({reason}); fetch it again") from None
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ValueError(f"{path} must hold tensors by name, got {type(held).__name__}; it is no state dict")
    return held


def _identity(network: InceptionNetwork) -> str:
    digest = hashlib.sha256(f"inception {VERSION}".encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()

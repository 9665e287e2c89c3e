"""Checkpoints of a training: one safetensors file, written all at once, that knows which training it belongs to."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wording.files import whole
from wording.foreign import show, told

FORMAT = 2
ADVICE = "delete it to train from the start, or name another checkpoint"


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from, why, and the way out."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stands.

    Attributes:
        identity: what determines the training, by name, as plain values.
        plain: its state in plain values.
        tensors: its state in tensors.
    """

    identity: dict[str, Any]
    plain: dict[str, Any]
    tensors: dict[str, Tensor]

    def write(self, path: Path) -> None:
        """Writes the file beside its place, forces it to the disk and renames it there.

        Raises:
            OSError: it cannot be written; names the path.
        """
        metadata = {"format": str(FORMAT), "identity": json.dumps(self.identity), "plain": json.dumps(self.plain)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        metadata["hash"] = _content(metadata, tensors)
        try:
            with whole(path) as beside:
                save_file(tensors, beside, metadata)
        except (SafetensorError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)[:200]
            raise OSError(
                f"checkpoint {path} cannot be written ({reason}); make room there or let it be written, and run again"
            ) from error

    @classmethod
    def read(cls, path: Path, *, expected: dict[str, Any]) -> "Checkpoint | None":
        """Returns what the file holds, None if there is no file.

        Raises:
            CheckpointError: the file is damaged, or belongs to a training with another identity.
        """
        if not path.exists():
            return None
        try:
            with safe_open(str(path), "pt") as opened:
                metadata = opened.metadata() or {}
                if metadata.get("format") != str(FORMAT):
                    raise CheckpointError(
                        f"checkpoint {path} is of format {show(metadata.get('format'))}, expected {FORMAT}; {ADVICE}"
                    )
                identity, plain = json.loads(metadata["identity"]), json.loads(metadata["plain"])
                _check_same(path, identity, expected)
                tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
            if metadata["hash"] != _content(metadata, tensors):
                raise ValueError("not what was written")
        except CheckpointError:
            raise
        except (SafetensorError, OSError, KeyError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"checkpoint {path} is damaged ({told(error)}); {ADVICE}") from None
        return cls(identity, plain, tensors)


def _check_same(path: Path, identity: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in sorted(expected.keys() | identity.keys()):
        if expected.get(name) != identity.get(name):
            raise CheckpointError(
                f"checkpoint {path} is of another training: {told(name, 80)} is {show(identity.get(name))} there, "
                f"{show(expected.get(name))} here; {ADVICE}"
            )


def _content(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Returns a hash of all that a checkpoint holds: a damaged one would go unnoticed into a gate."""
    named = [f"{name} {hash_of(tensor)}" for name, tensor in sorted(tensors.items())]
    return hashlib.sha256("\n".join([metadata["identity"], metadata["plain"], *named]).encode()).hexdigest()


def hash_of(*tensors: Tensor) -> str:
    """Returns a hash of tensors' shapes, types and numbers."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]

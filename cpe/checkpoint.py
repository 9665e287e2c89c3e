"""Checkpoints of a training: one safetensors file, written all at once, that knows which training it belongs to."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cpe.batch import Batch, ConceptTexts
from cpe.config import TrainingConfig
from cpe.projections import BaseProjections

FORMAT = 1
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
        """Writes the file beside its place and renames it there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        metadata = {"format": str(FORMAT), "identity": json.dumps(self.identity), "plain": json.dumps(self.plain)}
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}, temporary, metadata)
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

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
                tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
            identity, plain = json.loads(metadata["identity"]), json.loads(metadata["plain"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise CheckpointError(f"checkpoint {path} is damaged ({error}); {ADVICE}") from None
        if metadata.get("format") != str(FORMAT):
            raise CheckpointError(
                f"checkpoint {path} is of format {metadata.get('format')}, expected {FORMAT}; {ADVICE}"
            )
        for name in sorted(expected.keys() | identity.keys()):
            if expected.get(name) != identity.get(name):
                raise CheckpointError(
                    f"checkpoint {path} is of another training: {name} is {identity.get(name)!r} there, "
                    f"{expected.get(name)!r} here; {ADVICE}"
                )
        return cls(identity, plain, tensors)


def identity_of(
    concepts: Sequence[ConceptTexts], batch: Batch, base: BaseProjections, config: TrainingConfig
) -> dict[str, Any]:
    """Returns what determines a training, as plain values: settings by name, tensors by their hashes."""
    settings = config.model_dump()
    gate = settings.pop("gate")
    return {
        **{f"config.{name}": value for name, value in settings.items()},
        **{f"config.gate.{name}": value for name, value in gate.items()},
        "concepts": [each.concept for each in concepts],
        "seeds": [each.seed for each in concepts],
        "texts": _hash(batch.target, batch.surrogate, batch.empty),
        # A text encoder's last token has seen the whole prompt; where a prompt lies in the table does not matter.
        "anchors": _hash(*(batch.table[rows, -1] for rows in batch.anchors)),
        "base model": _hash(base.gram, base.weights),
        "device": f"{base.gram.device.type} {base.gram.dtype}",
    }


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]

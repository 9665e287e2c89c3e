"""Which training of gates a checkpoint belongs to."""

from collections.abc import Sequence
from typing import Any

from cpe.methods.checkpoint import hash_of
from cpe.methods.pinpoint.batch import Batch, ConceptTexts
from cpe.methods.pinpoint.config import TrainingConfig
from cpe.models.projections import BaseProjections


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
        "texts": hash_of(batch.target, batch.surrogate, batch.empty),
        # A text encoder's last token has seen the whole prompt; where a prompt lies in the table does not matter.
        "anchors": hash_of(*(batch.table[rows, -1] for rows in batch.anchors)),
        "base model": hash_of(base.gram, base.weights),
        "device": f"{base.gram.device.type} {base.gram.dtype}",
    }

"""What training tells while it goes on, and what it gives."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from cpe.methods.pinpoint.gates import Gates


@dataclass(frozen=True)
class StepRecord:
    """What one optimiser step saw, before it moved anything.

    Attributes:
        stage: counted from 0.
        phase: erasing, or searching adversarial copies.
        step: within this phase of this stage, from 0.
        steps: of this phase in this stage.
        taken: steps of the whole training before this one.
        learning_rate: of this step.
        concepts: positions of the concepts that are still in training, n of N.
        erase: erasing loss of each of them, (n,); in the adversary's phase its own loss.
        adversarial: loss on the adversarial copies, 0 before there are any, (n,).
        anchor: anchoring loss, not yet weighted, (n,).
    """

    stage: int
    phase: Literal["erase", "adversary"]
    step: int
    steps: int
    taken: int
    learning_rate: float
    concepts: tuple[int, ...]
    erase: Tensor
    adversarial: Tensor
    anchor: Tensor


@dataclass(frozen=True)
class Trained:
    """Trained gates and how they got there.

    Attributes:
        gates: N gates, in the order of the concepts.
        curves: of each concept, some of the records as plain values.
    """

    gates: Gates
    curves: tuple[tuple[dict[str, Any], ...], ...]


def learning_rate(step: int, steps: int, *, peak: float, warmup: int, cycles: int) -> float:
    """Linear warm-up, then a cosine to 0 with hard restarts."""
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1.0)))

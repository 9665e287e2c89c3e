"""What a gate's training takes on a device, from a few steps of each kind."""

# Axes: B prompts, T tokens, D text width.

import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from cpe.methods.pinpoint.batch import ConceptTexts
from cpe.methods.pinpoint.config import TrainingConfig
from cpe.methods.pinpoint.records import StepRecord
from cpe.methods.pinpoint.training import train
from cpe.models.attachment import network_of
from cpe.models.projections import BaseProjections

TIMED_STEPS = 6


def seconds_of(config: TrainingConfig, first: float, later: float, adversary: float) -> float:
    """Returns seconds of a gate's training from those of a step of the first stage, of a later one, of a search."""
    stages = config.stages - 1
    searches = stages * config.adversary_steps if config.copies else 0
    return config.first_steps * first + stages * config.later_steps * later + searches * adversary


def time_steps(
    pipe: Any, text: Tensor, config: TrainingConfig, concepts: int, cache: Path
) -> tuple[float, float, float]:
    """Returns seconds a gate of a first, a later and an adversary step, as many gates at once as would be trained.

    Args:
        pipe: the base model.
        text: embeddings of some prompts, (B, T, D).
        config: the preset.
        concepts: gates at once.
        cache: of what is computed once a base model.
    """
    text = text.to(pipe.device)
    base = BaseProjections.of(network_of(pipe), tokens=text.shape[1], device=pipe.device, cache=cache)
    short = {
        "stages": 2,
        "first_steps": TIMED_STEPS,
        "later_steps": TIMED_STEPS,
        "adversary_steps": TIMED_STEPS,
        "warmup_steps": 0,
        "plateau": 0.0,
    }
    half = len(text) // 2
    own = [
        ConceptTexts(str(n), target=text[:half], surrogate=text[half : 2 * half], anchors=text, seed=n)
        for n in range(concepts)
    ]
    moments: list[tuple[str, float]] = []

    def watch(record: StepRecord) -> None:
        if pipe.device.type == "cuda":
            torch.cuda.synchronize()
        kind = "adversary" if record.phase == "adversary" else "later" if record.stage else "first"
        moments.append((kind, time.perf_counter()))

    train(own, base, text[0], TrainingConfig.model_validate({**config.model_dump(), **short}), watch=watch)
    spans: dict[str, list[float]] = {}
    for (before, started), (kind, ended) in pairwise(moments):
        if before == kind:
            spans.setdefault(kind, []).append((ended - started) / concepts)
    return median(spans["first"]), median(spans["later"]), median(spans.get("adversary", [0.0]))

"""Small trainings."""

import torch

from cpe.methods.pinpoint.batch import ConceptTexts
from cpe.methods.pinpoint.config import GateConfig, TrainingConfig
from cpe.methods.pinpoint.training import train
from helpers.small import WIDTH, random_text

CONFIG = TrainingConfig(
    gate=GateConfig(gate_rank=4),
    stages=2,
    first_steps=40,
    later_steps=20,
    first_rate=3e-2,
    later_rate=1e-2,
    adversary_steps=10,
    copies=3,
    targets_per_step=2,
    anchors_per_step=6,
    anchor_weight=10.0,
)
TABLE = random_text(20, seed=200).half()


def concept(name: str, seed: int) -> ConceptTexts:
    """Returns texts whose target and surrogate differ by a direction of their own, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(WIDTH, generator=generator) * 2 + 0.2 * random_text(3, seed=seed).float()
    surrogate = torch.randn(WIDTH, generator=generator) * 2 + 0.2 * random_text(3, seed=seed + 100).float()
    return ConceptTexts(name, target, surrogate, TABLE, seed, torch.arange(seed, seed + 10))


def trained(concepts, base, config=CONFIG):
    records = []
    empty = random_text(1, seed=999).float()[0]
    return train(concepts, base, empty, config, watch=records.append).gates, records

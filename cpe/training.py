"""Trains gates stage by stage: erase, search adversarial copies, erase again (CPE, algorithm 1).

Concepts are independent of each other: several train as one batch, each drawing from its own generator,
and each ends in the gate it would have had alone.
"""

# Axes: N concepts, B prompts, T tokens, D text width, K templates.

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cpe.config import TrainingConfig
from cpe.gates import Gates, gate_codes
from cpe.objective import fixed_error, moved_error, up_products
from cpe.projections import BaseProjections


@dataclass(frozen=True)
class ConceptTexts:
    """The text embeddings one gate learns from.

    Attributes:
        concept: its name.
        target: the concept in each training template, (K, T, D).
        surrogate: what it turns into, in the same templates, (K, T, D).
        anchors: what must not change, (anchors, T, D).
        seed: of everything drawn for this concept.
    """

    concept: str
    target: Tensor
    surrogate: Tensor
    anchors: Tensor
    seed: int

    def generator(self) -> torch.Generator:
        """Returns the concept's own source of randomness, at its start."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class StepRecord:
    """What one optimiser step saw, before it moved anything.

    Attributes:
        stage: counted from 0.
        phase: erasing, or searching adversarial copies.
        step: within this phase of this stage, from 0.
        steps: of this phase in this stage.
        learning_rate: of this step.
        erase: erasing loss of each concept; in the adversary's phase its own loss.
        adversarial: loss on the adversarial copies, 0 before there are any.
        anchor: anchoring loss, not yet weighted.
    """

    stage: int
    phase: Literal["erase", "adversary"]
    step: int
    steps: int
    learning_rate: float
    erase: list[float]
    adversarial: list[float]
    anchor: list[float]


def steps_in_all(config: TrainingConfig) -> int:
    """Returns how many records a training yields."""
    searches = (config.stages - 1) * config.adversary_steps if config.copies else 0
    return config.first_steps + (config.stages - 1) * config.later_steps + searches


def fresh_gates(concepts: Sequence[ConceptTexts], base: BaseProjections, config: TrainingConfig) -> Gates:
    """Returns untrained gates, one a concept, from the concepts' own generators.

    Raises:
        ValueError: the texts' width is not the model's.
    """
    for texts in concepts:
        width = texts.target.shape[-1]
        if width != base.text_width:
            raise ValueError(
                f"{texts.concept!r} comes with text width {width}, the base model expects {base.text_width}; "
                "was it encoded by another text encoder?"
            )
    generators = [texts.generator() for texts in concepts]
    gates = Gates.fresh(config.gate, base.text_width, base.widths, generators)
    return gates.map(lambda tensor: tensor.to(base.gram))


def train(
    gates: Gates,
    concepts: Sequence[ConceptTexts],
    base: BaseProjections,
    empty: Tensor,
    config: TrainingConfig,
) -> Iterator[StepRecord]:
    """Trains the gates in place and yields a record a step; nothing else is moved.

    Args:
        gates: as `fresh_gates` made them.
        concepts: the N concepts' texts.
        base: the model's projections.
        empty: the empty prompt's embedding, (T, D).
        config: the preset.

    Raises:
        ValueError: concepts with different numbers of target prompts.
    """
    if len({texts.target.shape for texts in concepts}) > 1:
        raise ValueError("concepts that train together need the same number of target prompts; train them in groups")
    generators = [torch.Generator().manual_seed(texts.seed + 1) for texts in concepts]
    target = torch.stack([texts.target for texts in concepts])  # (N, K, T, D)
    surrogate = torch.stack([texts.surrogate for texts in concepts])
    offset = (1 + config.strength) * (surrogate - target)
    copies = target.new_zeros(len(concepts), 0, *target.shape[2:])  # (N, C, T, D)
    for stage in range(config.stages):
        if stage > 0 and config.copies > 0:
            copies = _fresh_copies(config.copies, target, generators)
            yield from _search(gates, target, copies, base, config, generators, stage)
        yield from _erase(gates, concepts, target, offset, copies, base, empty, config, generators, stage)


def learning_rate(step: int, steps: int, *, peak: float, warmup: int, cycles: int) -> float:
    """Linear warm-up, then a cosine to 0 with hard restarts."""
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1.0)))


def _erase(gates, concepts, target, offset, copies, base, empty, config, generators, stage) -> Iterator[StepRecord]:
    """One erasing stage: the target, its copies and the anchors pull on the gate at once."""
    steps = config.first_steps if stage == 0 else config.later_steps
    peak, cycles = (config.first_rate, 2) if stage == 0 else (config.later_rate, 1)
    count, erased, copied = len(concepts), config.targets_per_step, copies.shape[1]
    concept_axis = torch.arange(count)[:, None]
    target_fixed = fixed_error(offset, base)  # (N, K)
    pulled = (offset @ base.gram).flatten(2) @ copies.flatten(2).transpose(1, 2)  # (N, K, C)
    copy_fixed = target_fixed[:, :, None] - 2 * pulled + fixed_error(copies, base)[:, None]
    pairing = torch.arange(copied) % erased
    optimizer = torch.optim.Adam([t.requires_grad_() for t in gates.trained().values()], lr=peak)
    for step in range(steps):
        rate = learning_rate(step, steps, peak=peak, warmup=config.warmup_steps, cycles=cycles)
        optimizer.param_groups[0]["lr"] = rate
        template = _draw_templates(target.shape[1], erased, generators)  # (N, erased)
        anchors = torch.stack(
            [draw_anchors(t.anchors, config, g) for t, g in zip(concepts, generators, strict=True)]
        )  # (N, A, T, D)
        shown, wanted = target[concept_axis, template], offset[concept_axis, template]
        attacked = shown[:, pairing] + copies
        quiet = torch.cat([anchors, empty.expand(count, 1, *empty.shape)], dim=1)
        _, codes = gate_codes(gates, torch.cat([shown, attacked, quiet], dim=1))
        products = up_products(gates, base)
        moving = torch.cat([wanted, wanted[:, pairing] - copies], dim=1)
        moved = moved_error(codes[:, : erased + copied], moving, products)
        held = moved_error(codes[:, erased + copied :], None, products).mean(dim=1)  # (N,)
        erase_moved = moved[:, :erased].mean(dim=1)
        copy_moved = moved[:, erased:].sum(dim=1) / max(1, copied)
        optimizer.zero_grad()
        (erase_moved + copy_moved + config.anchor_weight * held).sum().backward()
        optimizer.step()
        erase = erase_moved.detach() + target_fixed[concept_axis, template].mean(dim=1)
        copy_const = copy_fixed[concept_axis, template[:, pairing], torch.arange(copied)].sum(dim=1)
        adversarial = copy_moved.detach() + copy_const / max(1, copied)
        yield StepRecord(
            stage, "erase", step, steps, rate, erase.tolist(), adversarial.tolist(), held.detach().tolist()
        )
    for tensor in gates.trained().values():
        tensor.requires_grad_(False)


def _search(gates, target, copies, base, config, generators, stage) -> Iterator[StepRecord]:
    """One adversary stage: with the gate frozen, copies bring the target back."""
    steps, copied = config.adversary_steps, copies.shape[1]
    concept_axis = torch.arange(len(target))[:, None]
    pairing = torch.arange(copied) % config.targets_per_step
    products = up_products(gates, base)
    optimizer = torch.optim.Adam([copies.requires_grad_()], lr=config.adversary_rate)
    for step in range(steps):
        rate = learning_rate(step, steps, peak=config.adversary_rate, warmup=config.warmup_steps, cycles=1)
        optimizer.param_groups[0]["lr"] = rate
        template = _draw_templates(target.shape[1], config.targets_per_step, generators)
        shown = target[concept_axis, template][:, pairing]
        _, codes = gate_codes(gates, shown + copies)
        loss = (fixed_error(copies, base) + moved_error(codes, -copies, products)).mean(dim=1)  # (N,)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        nothing = [0.0] * len(target)
        yield StepRecord(stage, "adversary", step, steps, rate, loss.detach().tolist(), nothing, nothing)
    copies.requires_grad_(False)


def draw_anchors(anchors: Tensor, config: TrainingConfig, generator: torch.Generator) -> Tensor:
    """Returns anchors of one step, (anchors_per_step, T, D): noisy pairs, mixed by Beta(1, 1)."""
    count = config.anchors_per_step
    rows = torch.randint(len(anchors), (2 * count,), generator=generator)
    drawn = anchors[rows].to(torch.promote_types(anchors.dtype, torch.float32))
    noise = torch.randn(drawn.shape, generator=generator, dtype=drawn.dtype).to(drawn.device)
    drawn = drawn + config.anchor_noise * drawn.norm(dim=-1, keepdim=True) * noise
    share = torch.rand(count, 1, 1, generator=generator, dtype=drawn.dtype).to(drawn.device)
    return drawn[count:].lerp(drawn[:count], share)


def _draw_templates(templates: int, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([torch.randint(templates, (count,), generator=g) for g in generators])  # (N, count)


def _fresh_copies(count: int, target: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Returns starting copies, (N, C, T, D), uniform within ±1/√(T D) / D²."""
    tokens, width = target.shape[2:]
    bound = (tokens * width) ** -0.5 / width**2
    drawn = [torch.rand(count, tokens, width, generator=g, dtype=target.dtype) for g in generators]
    return ((torch.stack(drawn) * 2 - 1) * bound).to(target.device)

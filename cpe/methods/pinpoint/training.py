"""Trains gates stage by stage: erase, search adversarial copies, erase again (CPE, algorithm 1).

Concepts are independent of each other: several train as one batch, each drawing from its own generators,
and each ends in the gate it would have had alone.
"""

# Axes: N concepts, C copies, T tokens, D text width.

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cpe.methods.checkpoint import Checkpoint
from cpe.methods.pinpoint.batch import Batch, ConceptTexts
from cpe.methods.pinpoint.config import TrainingConfig
from cpe.methods.pinpoint.identity import identity_of
from cpe.methods.pinpoint.phases.erase import ErasePhase
from cpe.methods.pinpoint.phases.recording import Stepper
from cpe.methods.pinpoint.phases.search import AttackPhase
from cpe.methods.pinpoint.records import StepRecord, Trained, learning_rate
from cpe.models.projections import BaseProjections

CURVE_POINTS = 60
CHECKPOINT_EVERY = 250
END_SHARE = 0.1  # of a stage's steps whose mean loss says where the stage ended
# What a checkpoint holds of a training, besides the gates, Adam's state and the sources of randomness.
STATE = ("stage", "phase", "step", "taken", "active", "ended", "curves")
STATE_TENSORS = ("copies", "earlier", "last_losses")


def steps_in_all(config: TrainingConfig) -> int:
    """Returns how many steps a training takes, unless a plateau ends it."""
    searches = (config.stages - 1) * config.adversary_steps if config.copies else 0
    return config.first_steps + (config.stages - 1) * config.later_steps + searches


def train(
    concepts: Sequence[ConceptTexts],
    base: BaseProjections,
    empty: Tensor,
    config: TrainingConfig,
    *,
    watch: Callable[[StepRecord], Any] | None = None,
    begin: Callable[[int], Any] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
) -> Trained:
    """Trains one gate a concept; the base model and the texts stay as they are.

    Example:
        >>> from cpe import PRESETS, BaseProjections, ConceptTexts, encode_prompts, load_pipeline
        >>> pipe = load_pipeline("embedded", device="cpu")
        >>> rose, thing = (encode_prompts(pipe, [f"a {name}", f"one {name}"]) for name in ("rose", "object"))
        >>> texts = ConceptTexts("rose", rose, thing, anchors=encode_prompts(pipe, ["a tulip", "a tree"]), seed=0)
        >>> base = BaseProjections.of(pipe.unet, tokens=pipe.tokenizer.model_max_length)
        >>> quick = PRESETS["emoji"].model_copy(update={"stages": 1, "first_steps": 5})
        >>> trained = train([texts], base, encode_prompts(pipe, [""])[0], quick)
        >>> trained.gates.widths == base.widths
        True

    Args:
        concepts: the N concepts' texts.
        base: the model's projections.
        empty: the empty prompt's embedding, (T, D).
        config: the preset.
        watch: called after every step.
        begin: called before the first step, with the number of steps that the checkpoint has.
        checkpoint: file to resume from, written every stage and every so many steps; a training that is killed and
            started again ends in the same gates (docs/method.md). The caller deletes it once the gates are safe.
        checkpoint_every: steps.

    Raises:
        ValueError: no concepts, concepts with different numbers of target prompts or different tables of anchors,
            another text width than the model's.
        CheckpointError: the checkpoint is damaged or of another training.

    Source: CPE (ICLR 2025), algorithm 1.
    """
    run = Training(concepts, base, empty, config)
    if checkpoint is not None:
        run.resume(checkpoint)
    if begin is not None:
        begin(run.taken)
    run.finish(watch or (lambda record: None), checkpoint, checkpoint_every)
    curves = tuple(tuple(curve) for curve in run.curves)
    return Trained(run.batch.gates.map(torch.clone), curves)


class Training:
    """N gates in training: what the stages share, and what a checkpoint holds."""

    def __init__(
        self, concepts: Sequence[ConceptTexts], base: BaseProjections, empty: Tensor, config: TrainingConfig
    ) -> None:
        self.base, self.config = base, config
        self.batch = Batch.fresh(concepts, base, empty, config)
        self.identity = identity_of(concepts, self.batch, base, config)
        self.active = list(range(len(concepts)))
        self.curves: list[list[dict[str, Any]]] = [[] for _ in concepts]
        none = self.batch.flat.new_zeros(len(concepts), 0, *empty.shape)
        self.copies, self.earlier = none, none  # (n, C, T, D) of the active concepts
        self.ended: list[float] = []  # each active concept's loss at the end of the last stage, from the second on
        self.stage, self.step, self.taken = 0, 0, 0
        self.phase: Literal["erase", "adversary"] = "erase"
        self.optimizer_state: dict[str, Tensor] = {}
        self.last_losses = self.batch.flat.new_zeros(len(concepts))

    def finish(self, watch: Callable[[StepRecord], Any], checkpoint: Path | None, every: int) -> None:
        """Runs whatever stages are left."""
        while self.stage < self.config.stages and self.active:
            if self.phase == "adversary":
                self._run_phase(watch, checkpoint, every)
                self.phase, self.step = "erase", 0
            self._run_phase(watch, checkpoint, every)
            self._drop_finished()
            self.stage, self.phase, self.step = self.stage + 1, "adversary" if self.config.copies else "erase", 0
            if self.config.copies and self.stage < self.config.stages:
                self.renew_copies()
            if checkpoint is not None:
                self.save(checkpoint)

    def _run_phase(self, watch: Callable[[StepRecord], Any], checkpoint: Path | None, every: int) -> None:
        """Runs one phase of one stage from the step it is at to its end."""
        config = self.config
        phase = self.erase_phase() if self.phase == "erase" else self.attack_phase()
        steps, peak, cycles, warmup = config.adversary_steps, config.adversary_rate, 1, config.adversary_warmup_steps
        if self.phase == "erase" or warmup is None:
            warmup = config.warmup_steps
        if self.phase == "erase":
            steps = config.later_steps if self.stage else config.first_steps
            peak, cycles = (config.later_rate, 1) if self.stage else (config.first_rate, 2)
        stepper = Stepper(phase, self.optimizer_state if self.step else {})
        if not self.step:
            self.last_losses = self.batch.flat.new_zeros(len(self.active))
        while self.step < steps:
            rate = learning_rate(self.step, steps, peak=peak, warmup=warmup, cycles=cycles)
            losses = stepper.step(rate)
            if self.step >= steps - math.ceil(END_SHARE * steps):
                self.last_losses += losses[0] + losses[1] + config.anchor_weight * losses[2]
            at = (self.stage, self.phase, self.step, steps, self.taken)
            self._note(StepRecord(*at, rate, tuple(self.active), *losses), watch)
            self.step, self.taken = self.step + 1, self.taken + 1
            if checkpoint is not None and self.step % every == 0 and self.step < steps:
                self._keep(phase)
                self.optimizer_state = stepper.state()
                self.save(checkpoint)
        self._keep(phase)
        self.optimizer_state = {}

    def erase_phase(self) -> ErasePhase:
        """Returns an erasing phase of the active concepts, from where they are."""
        return ErasePhase(self.batch.some(self.active), self.copies, self.earlier, self.base, self.config)

    def attack_phase(self) -> AttackPhase:
        """Returns a search for copies of the active concepts, from where they are."""
        return AttackPhase(self.batch.some(self.active), self.copies, self.base, self.config)

    def _keep(self, phase: ErasePhase | AttackPhase) -> None:
        """Takes over what a phase has moved; copies are moved where they are."""
        self.batch.flat[self.active] = phase.batch.flat

    def _note(self, record: StepRecord, watch: Callable[[StepRecord], Any]) -> None:
        """Tells the watcher, and keeps some records as curves."""
        if record.step % max(1, record.steps // CURVE_POINTS) == 0 or record.step == record.steps - 1:
            for index, place in enumerate(record.concepts):
                point = {"stage": record.stage, "phase": record.phase, "step": record.step}
                losses = {name: getattr(record, name)[index].item() for name in ("erase", "adversarial", "anchor")}
                self.curves[place].append({**point, **losses})
        watch(record)

    def _drop_finished(self) -> None:
        """Takes concepts out of training whose last stage gained less than `config.plateau`; beyond the paper."""
        if self.config.plateau and self.stage >= 1:
            ends = (self.last_losses / math.ceil(END_SHARE * self.config.later_steps)).tolist()
            before = self.ended or [math.inf] * len(ends)
            going = [i for i, end in enumerate(ends) if end <= (1 - self.config.plateau) * before[i]]
            self.active = [self.active[i] for i in going]
            self.copies, self.earlier = self.copies[going], self.earlier[going]
            self.ended = [ends[i] for i in going]

    def renew_copies(self) -> None:
        """Puts fresh copies in the last ones' place, uniform within ±1/√(T D) / D²."""
        if self.config.replay:
            self.earlier = torch.cat([self.earlier, self.copies], dim=1)
        tokens, width = self.batch.empty.shape
        bound = (tokens * width) ** -0.5 / width**2
        self.copies = self.batch.flat.new_empty(len(self.active), self.config.copies, tokens, width)
        for place, row in zip(self.active, self.copies, strict=True):
            row.uniform_(-bound, bound, generator=self.batch.draws[place].noise)

    def save(self, path: Path) -> None:
        """Writes everything that the rest of the training depends on, all at once or not at all."""
        tensors = {"flat": self.batch.flat, **{name: getattr(self, name) for name in STATE_TENSORS}}
        tensors |= {f"optimizer.{name}": value for name, value in self.optimizer_state.items()}
        for place, own in enumerate(self.batch.draws):
            tensors[f"choices.{place}"] = own.choices.get_state()
            tensors[f"noise.{place}"] = own.noise.get_state()
        Checkpoint(self.identity, {name: getattr(self, name) for name in STATE}, tensors).write(path)

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint, if there is one."""
        found = Checkpoint.read(path, expected=self.identity)
        if found is None:
            return
        device = self.batch.flat.device
        for name in STATE:
            setattr(self, name, found.plain[name])
        for name in STATE_TENSORS:
            setattr(self, name, found.tensors[name].to(device))
        self.batch.flat.copy_(found.tensors["flat"])
        self.optimizer_state = {  # its step count stays where Adam keeps it
            name.removeprefix("optimizer."): value.to(device)
            for name, value in found.tensors.items()
            if name.startswith("optimizer.")
        }
        for place, own in enumerate(self.batch.draws):
            own.choices.set_state(found.tensors[f"choices.{place}"])
            own.noise.set_state(found.tensors[f"noise.{place}"])

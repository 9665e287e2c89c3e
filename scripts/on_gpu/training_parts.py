"""Training on a GPU: the recorded step, whole trainings against the CPU's, and how long a hundred gates take."""

# Axes: N concepts, C copies, T tokens, D text width.

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import training
from benchmarks.steps import RESTLESS, concepts_of
from cpe.methods.pinpoint.phases.erase import ErasePhase
from cpe.methods.pinpoint.phases.recording import Stepper
from cpe.methods.pinpoint.phases.search import AttackPhase
from cpe.methods.pinpoint.records import StepRecord
from cpe.methods.pinpoint.training import Training, steps_in_all, train
from cpe.models.projections import BaseProjections
from scripts.on_gpu.sizes import Sizes

KINDS = ("first", "later", "search")
RATE = 3e-4
SETTLED = 5  # steps of a phase that recording and first launches may spoil


def recorded(sizes: Sizes, device: str, cache: Path, left: Callable[[], float]) -> dict[str, Any]:
    """Returns how far recorded and unrecorded steps are from float64 on the CPU, and how long they take.

    Nothing is drawn on the device here, so that every device sees the same texts. Distances are relative: of losses the
    largest over the steps, of `moved` what all steps moved together.
    """
    quiet = sizes.config.model_copy(update={"anchor_noise": 0.0})
    unet, result = sizes.attentions(), {}
    for kind in KINDS:
        exact, _ = _steps(kind, sizes, quiet, _base(unet, sizes, "cpu", cache, torch.float64), plain=True)
        row: dict[str, Any] = {}
        for name, where, plain in (
            ("cpu float32", "cpu", True),
            ("unrecorded", device, True),
            ("recorded", device, False),
        ):
            found, stepper = _steps(kind, sizes, quiet, _base(unet, sizes, where, cache), plain=plain)
            row[name] = {part: _distance(found[part], exact[part]) for part in exact}
            row[name]["is_recorded"] = stepper.take != stepper._take
        result[kind] = row
    base = _base(unet, sizes, device, cache)
    for count in sizes.counts[:2]:
        for kind in KINDS:
            for name, capture in (("unrecorded", _same), ("recorded", None)):
                stepper = Stepper(_phase(kind, sizes, sizes.config, base, count), {}, capture)
                for _ in range(SETTLED):
                    stepper.step(RATE)
                step = partial(stepper.step, RATE)
                took = [training.seconds(step, base.gram.device) for _ in range(sizes.steps)]
                result[kind][name][f"ms_a_step_of_{count}"] = 1e3 * median(took)
    return result


def trained(sizes: Sizes, device: str, cache: Path, left: Callable[[], float]) -> dict[str, Any]:
    """Returns how far gates trained on the device are from the CPU's, and the losses that whole trainings end with.

    Without copies and noise everything is drawn on the CPU: those gates should agree. With them each device draws its
    own, and only the losses compare.
    """
    unet, count = sizes.attentions(), sizes.counts[0]
    steps = {"first_steps": sizes.trained_steps, "later_steps": sizes.trained_steps}
    steps |= {"adversary_steps": sizes.trained_steps}
    quiet = sizes.config.model_copy(update={**steps, "stages": 1, "copies": 0, "anchor_noise": 0.0})
    whole = sizes.config.model_copy(update={**steps, "stages": 2})
    gates, ends = {}, {}
    for name, where, dtype in (
        ("exact", "cpu", torch.float64),
        ("cpu", "cpu", torch.float32),
        ("here", device, torch.float32),
    ):
        base = _base(unet, sizes, where, cache, dtype)
        concepts, empty = concepts_of(count, base, templates=sizes.templates)
        start = time.perf_counter()
        gates[name] = {
            key: value.double().cpu() for key, value in train(concepts, base, empty, quiet).gates.trained().items()
        }
        last = train(concepts, base, empty, whole).curves[0][-1]
        ends[name] = {key: last[key] for key in ("erase", "adversarial", "anchor")} | {"s": time.perf_counter() - start}
    apart = {
        name: {key: _distance(value, gates["exact"][key]) for key, value in gates[name].items()}
        for name in ("cpu", "here")
    }
    return {"steps": sizes.trained_steps, "gates_from_float64": apart, "losses_at_the_end": ends}


def benchmark(sizes: Sizes, device: str, cache: Path, left: Callable[[], float]) -> dict[str, Any]:
    """Returns what `python -m benchmarks.training --concepts …` measures."""
    unet = sizes.attentions()
    result = training.measure(unet, config=sizes.config, device=device, tokens=sizes.tokens, rounds=3)
    result |= training.totals(result, sizes.config)
    base = _base(unet, sizes, device, cache)
    result["scaling"] = training.scaling(base, sizes.config, sizes.counts, steps=max(2, sizes.steps // 4))
    return result


def hundred(sizes: Sizes, device: str, cache: Path, left: Callable[[], float]) -> dict[str, Any]:
    """Returns the seconds that training the largest batch with every step takes: reckoned, and run if that fits."""
    base, config, count = _base(sizes.attentions(), sizes, device, cache), sizes.config, sizes.counts[-1]
    concepts, empty = concepts_of(count, base, templates=sizes.templates)
    few = SETTLED + sizes.steps
    short = config.model_copy(update={"stages": 2, "first_steps": few, "later_steps": few, "adversary_steps": few})
    marks: dict[str, list[float]] = {}

    def watch(record: StepRecord) -> None:
        if record.step in (SETTLED - 1, few - 1):
            _settle(device)
            kind = "search" if record.phase == "adversary" else "later" if record.stage else "first"
            marks.setdefault(kind, []).append(time.perf_counter())

    whole = training.seconds(lambda: train(concepts, base, empty, short, watch=watch), base.gram.device)
    a_step = {kind: (end - start) / sizes.steps for kind, (start, end) in marks.items()}
    later, spent = config.stages - 1, sum(a_step.values()) * sizes.steps
    reckoned = a_step["first"] * config.first_steps + a_step["later"] * config.later_steps * later
    reckoned += a_step["search"] * config.adversary_steps * later + (whole - spent) * (2 * later + 1) / len(a_step)
    result: dict[str, Any] = {
        "concepts": count,
        "templates": sizes.templates,
        "steps": steps_in_all(config),
        "ms_a_step_and_concept": {kind: 1e3 * value / count for kind, value in a_step.items()},
        "reckoned_s": reckoned,
    }
    if 1.3 * reckoned < left():
        result["run_s"] = training.seconds(lambda: train(concepts, base, empty, config), base.gram.device)
    else:
        result["skipped"] = f"the whole training: {left():.0f} s are left"
    return result


def _base(
    unet: torch.nn.Module, sizes: Sizes, device: str, cache: Path, dtype: torch.dtype = torch.float32
) -> BaseProjections:
    return BaseProjections.of(unet, tokens=sizes.tokens, device=device, dtype=dtype, cache=cache)


def _phase(kind: str, sizes: Sizes, config: Any, base: BaseProjections, count: int) -> ErasePhase | AttackPhase:
    """Returns a phase of gates in the middle of their training; copies and gates are drawn on the CPU."""
    concepts, empty = concepts_of(count, base, templates=min(sizes.templates, 20))
    run, generator = Training(concepts, base, empty, config), torch.Generator().manual_seed(1)
    up = run.batch.gates.up
    up += RESTLESS * torch.randn(up.shape, generator=generator).to(up)
    if kind != "first":
        copies = torch.randn(count, config.copies, *empty.shape, generator=generator)  # (N, C, T, D)
        run.copies = (0.1 * copies).to(empty)
    return run.attack_phase() if kind == "search" else run.erase_phase()


def _steps(
    kind: str, sizes: Sizes, config: Any, base: BaseProjections, *, plain: bool
) -> tuple[dict[str, Tensor], Stepper]:
    """Takes some steps; returns their losses and what they moved, and what took them."""
    phase = _phase(kind, sizes, config, base, 1)
    start, stepper = phase.moving.clone(), Stepper(phase, {})
    if plain:
        stepper.take = stepper._take
    losses = torch.stack([stepper.step(RATE) for _ in range(sizes.steps)])
    moved = phase.moving - start
    return {"losses": losses.double().cpu(), "moved": moved.double().cpu()}, stepper


def _same(take: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return take


def _distance(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def _settle(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()

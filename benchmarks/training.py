"""One training step, plainly and ours, side by side: `python -m benchmarks.training` (`--json` for programs).

The plain step is what the formulas say: every projection of every prompt, with and without gates, the gate computed
for each projection, gradients by autograd. Ours is what `cpe.train` runs. Both take the same texts, the same gates and
the same number of threads, in one process, in turns.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import peak_mib, reset_peak
from benchmarks.shapes import TOKENS, UNETS, build_attentions
from benchmarks.steps import Steps, concepts_of
from cpe.methods.pinpoint.config import PRESETS, TrainingConfig
from cpe.methods.pinpoint.training import train
from cpe.models.projections import BaseProjections


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Returns how long some work takes, on a GPU until it is done."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gflop(work: Callable[[], Any]) -> float:
    """Returns the multiply-adds of some work's products, two operations each, in 1e9."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def where_time_goes(step: Callable[[], Any], steps: int, top: int = 8) -> list[dict[str, Any]]:
    """Returns the operations that take most of a step, by PyTorch's profiler."""
    with torch.profiler.profile() as profiled:
        for _ in range(steps):
            step()
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_cpu_time_total)[:top]
    return [
        {"operation": r.key, "ms_per_step": r.self_cpu_time_total / 1e3 / steps, "calls": r.count / steps} for r in rows
    ]


def measure(
    unet: nn.Module, *, config: TrainingConfig, device: str = "cpu", tokens: int = TOKENS, rounds: int = 5
) -> dict[str, Any]:
    """Returns step times of both ways, their ratio, work, memory and agreement, on a U-Net's projections."""
    where = torch.device(device)
    with TemporaryDirectory() as cache:
        start = time.perf_counter()
        base = BaseProjections.of(unet, tokens=tokens, device=device, cache=Path(cache))
        first = time.perf_counter() - start
        again = seconds(lambda: BaseProjections.of(unet, tokens=tokens, device=device, cache=Path(cache)), where)
    steps = Steps(base, config)
    kinds: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "first": (lambda: steps.ours(steps.first), lambda: steps.plain_erase(steps.first)),
        "erase": (lambda: steps.ours(steps.erase), lambda: steps.plain_erase(steps.erase)),
        "adversary": (lambda: steps.ours(steps.attack), steps.plain_attack),
    }
    result: dict[str, Any] = {"spectral_norms_and_m_s": first, "spectral_norms_and_m_cached_s": again}
    before = reset_peak(where)
    for ours, _ in kinds.values():
        ours()
    result["peak_mib_ours"] = peak_mib(where) - before
    before = reset_peak(where)
    computed = {"first": steps.first.compute, "erase": steps.erase.compute, "adversary": steps.attack.compute}
    for name, (_, plainly) in kinds.items():
        result[name] = {"gflop_ours": gflop(computed[name]), "gflop_plain": gflop(plainly)}
    result["peak_mib_plain"] = peak_mib(where) - before
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in kinds}
    for _ in range(rounds):
        for name, (ours, plainly) in kinds.items():
            times[name][0].append(median(seconds(ours, where) for _ in range(15)))
            times[name][1].append(seconds(plainly, where))
    for name, (fast, slow) in times.items():
        ratios = sorted(b / a for a, b in zip(fast, slow, strict=True))
        result[name] |= {
            "ms_ours": 1e3 * median(fast),
            "ms_plain": 1e3 * median(slow),
            "ratio": median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
            "where": where_time_goes(kinds[name][0], 10),
        }
    exact = BaseProjections.of(unet, tokens=tokens, device=device, dtype=torch.float64)
    result["disagreement"] = Steps(exact, config).disagreement()
    return result


def scaling(base: BaseProjections, config: TrainingConfig, counts: Sequence[int], steps: int) -> list[dict[str, Any]]:
    """Returns seconds a step and concept of training so many concepts as one batch, at a reduced number of steps."""
    short = config.model_copy(
        update={"stages": 2, "first_steps": steps, "later_steps": steps, "adversary_steps": steps}
    )
    found = []
    for count in counts:
        concepts, empty = concepts_of(count, base, templates=20)
        times: dict[str, list[float]] = {"first": [], "erase": [], "adversary": []}
        last = [time.perf_counter()]

        def watch(record: Any, times: dict[str, list[float]] = times, last: list[float] = last) -> None:
            _wait(base.gram.device)
            now = time.perf_counter()
            times["first" if record.stage == 0 else record.phase].append(now - last[0])
            last[0] = now

        train(concepts, base, empty, short, watch=watch)
        found.append(
            {"concepts": count, **{f"{k}_ms_per_concept": 1e3 * median(v[1:]) / count for k, v in times.items()}}
        )
    return found


def whole(base: BaseProjections, config: TrainingConfig) -> dict[str, float]:
    """Returns what training one gate with every step of a preset takes, texts and projections being there."""
    concepts, empty = concepts_of(1, base)
    before = reset_peak(base.gram.device)
    spent = seconds(lambda: train(concepts, base, empty, config), base.gram.device)
    return {"seconds": spent, "peak_mib": peak_mib(base.gram.device) - before}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(UNETS), default="sd-v1.4", help="whose projections, random weights")
    parser.add_argument("--preset", choices=list(PRESETS), default="celebrity", help="whose steps")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=5, help="plain steps of each kind; ours run 15 times as often")
    parser.add_argument("--concepts", type=int, nargs="*", default=[], help="batches to show the growth of work with")
    parser.add_argument("--steps", type=int, default=10, help="steps a phase for --concepts")
    parser.add_argument("--whole", action="store_true", help="also train one gate with every step of the preset")
    parser.add_argument("--json", action="store_true", help="print the figures for programs")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    config, unet = PRESETS[chosen.preset], build_attentions(chosen.shape)
    result = {"shape": chosen.shape, "preset": chosen.preset, "device": chosen.device, "threads": chosen.threads}
    base = BaseProjections.of(unet, tokens=TOKENS, device=chosen.device) if chosen.whole or chosen.concepts else None
    if base is not None and chosen.whole:
        result["whole"] = whole(base, config)
    result |= measure(unet, config=config, device=chosen.device, rounds=chosen.rounds)
    result |= totals(result, config)
    if base is not None and chosen.concepts:
        result["scaling"] = scaling(base, config, chosen.concepts, chosen.steps)
    print(json.dumps(result, indent=1) if chosen.json else report(result))


def totals(result: dict[str, Any], config: TrainingConfig) -> dict[str, Any]:
    """Returns what one whole training takes at the measured step times and work."""
    later = config.stages - 1
    taken = {
        "first": config.first_steps,
        "erase": later * config.later_steps,
        "adversary": later * config.adversary_steps if config.copies else 0,
    }
    return {
        f"training_{unit}": scale * sum(count * result[kind][name] for kind, count in taken.items())
        for unit, name, scale in (
            ("seconds_ours", "ms_ours", 1e-3),
            ("seconds_plain", "ms_plain", 1e-3),
            ("tflop_ours", "gflop_ours", 1e-3),
        )
    }


def report(result: dict[str, Any]) -> str:
    """Returns the result as text."""
    lines = [f"{result.get('shape', 'model')}, {result.get('threads', '?')} thread(s), {result.get('device', '?')}"]
    for name in ("first", "erase", "adversary"):
        r = result[name]
        lines += [
            f"{name:10} plain {r['ms_plain']:9.1f} ms {r['gflop_plain']:8.1f} GFLOP",
            f"{'':10} ours  {r['ms_ours']:9.1f} ms {r['gflop_ours']:8.2f} GFLOP   {r['ratio']:.0f} times faster "
            f"({r['ratio_range'][0]:.0f} to {r['ratio_range'][1]:.0f})",
        ]
        shares = ", ".join(f"{w['operation'].removeprefix('aten::')} {w['ms_per_step']:.1f}" for w in r["where"][:6])
        lines.append(f"{'':10} where ours goes, ms: {shares}")
    lines.append(
        f"peak memory of steps beyond texts and model: ours {result['peak_mib_ours']:.0f} MiB, "
        f"plain {result['peak_mib_plain']:.0f} MiB"
    )
    lines.append(
        "relative difference in float64: " + ", ".join(f"{k} {v:.1e}" for k, v in result["disagreement"].items())
    )
    lines.append(
        f"spectral norms and M: {result['spectral_norms_and_m_s']:.1f} s once, "
        f"{result['spectral_norms_and_m_cached_s']:.2f} s from the cache"
    )
    lines.append(
        f"one whole training: ours {result['training_seconds_ours']:.0f} s, {result['training_tflop_ours']:.1f} "
        f"TFLOP; plain {result['training_seconds_plain']:.0f} s"
    )
    if "whole" in result:
        spent = result["whole"]
        lines.append(f"one whole training, run: {spent['seconds']:.0f} s, {spent['peak_mib']:.0f} MiB beyond the texts")
    for row in result.get("scaling", []):
        lines.append(
            f"{row['concepts']:4} concepts in one batch, ms a step and concept: first stage "
            f"{row['first_ms_per_concept']:.1f}, later {row['erase_ms_per_concept']:.1f}, "
            f"search {row['adversary_ms_per_concept']:.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

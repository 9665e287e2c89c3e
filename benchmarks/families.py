"""What each family of base models costs: `python -m benchmarks.families` (`--json` for programs).

For every family at its real shapes (`benchmarks/family_shapes.py`), with random weights and texts without padding: one
erasing step of one gate, and beside it, in turns, the plain computation of the same losses and gradients, which goes
forward through the key and value projections for every prompt. For PixArt, SANA and Wan also a denoising step of a
network of few layers, at the real widths, with so many gates attached over the untouched one.

Times are the process's own on the processor, with one thread what a quiet core takes: other programs beside it change
them little. The plain computation does the same work at every projection, so it runs through so many of them, spread
over the depth, as fit into a budget, and its time is scaled to all by their widths; `plain_sites` says how many.
"""

import argparse
import gc
import json
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch

from benchmarks.family_shapes import FAMILIES, FamilyShape, projections_of
from benchmarks.family_steps import spent, step_ratios
from benchmarks.steps import Steps
from cpe.methods.pinpoint.config import PRESETS, TrainingConfig
from cpe.models.projections import BaseProjections

COUNTS = (0, 1, 50, 500)
TEMPLATES, ANCHORS = 4, 64  # prompts of the target, embeddings that anchors are drawn from
PLAIN_GFLOP = 300.0  # products with projections that one plain computation may take, if one attention takes less


def measure(
    shapes: Mapping[str, FamilyShape],
    *,
    config: TrainingConfig,
    counts: Sequence[int] = COUNTS,
    rounds: int = 3,
    plain_gflop: float = PLAIN_GFLOP,
) -> list[dict[str, Any]]:
    """Returns a row a family.

    Args:
        shapes: of the families, by name.
        config: the preset whose erasing step it is.
        counts: numbers of gates attached.
        rounds: turns of each measurement.
        plain_gflop: what one plain computation may take; at least one attention's key and value are gone through.

    Returns:
        Rows of `family`, `form` ("exact": text alone trains gates), `tokens`, `width` (of the text), `sites`,
        `erase_ms`, `plain_ms`, `plain_sites`, and where steps are measured `step_ratio` and `once_ms` by the number of
        gates and `step_ms` of the untouched network, else None.
    """
    rows = []
    for name, shape in shapes.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        row: dict[str, Any] = {"family": name, "form": "exact", "step_ratio": None, "once_ms": None, "step_ms": None}
        row |= _training(projections_of(shape), config, rounds, plain_gflop)
        gc.collect()
        if shape.depth:
            torch.manual_seed(0)
            row |= step_ratios(shape.built(**shape.depth), shape.tokens, counts, rounds=rounds)
        rows.append(row)
    return rows


def _training(base: BaseProjections, config: TrainingConfig, rounds: int, plain_gflop: float) -> dict[str, Any]:
    steps = Steps(base, config, templates=TEMPLATES, anchors=ANCHORS)
    some = spread(base, config, plain_gflop)
    share = sum(base.widths[site] for site in some) / sum(base.widths)
    ours: list[float] = []
    plainly: list[float] = []
    steps.ours(steps.erase)  # the first records what the others replay
    for _ in range(rounds):
        ours.append(median(spent(lambda: steps.ours(steps.erase)) for _ in range(5)))
        plainly.append(spent(lambda: steps.plain_erase(steps.erase, some)) / share)
    return {
        "tokens": base.tokens,
        "width": base.text_width,
        "sites": len(base.names),
        "erase_ms": 1e3 * median(ours),
        "plain_ms": 1e3 * median(plainly),
        "plain_sites": len(some),
    }


def spread(base: BaseProjections, config: TrainingConfig, gflop: float) -> list[int]:
    """Returns the places of keys and values of as many attentions as fit into a budget, spread over the depth.

    Args:
        base: the model's projections.
        config: the preset, which says how many prompts a step has.
        gflop: the budget, of products with projections.
    """
    prompts = 3 * config.targets_per_step + config.copies + 2 * (1 + config.anchors_per_step)
    each = 2e-9 * prompts * base.tokens * base.text_width * sum(base.widths) / (len(base.widths) / 2)
    attentions = len(base.names) // 2
    count = max(1, min(attentions, int(gflop / each)))
    chosen = [(2 * place + 1) * attentions // (2 * count) for place in range(count)]
    return [site for attention in chosen for site in (2 * attention, 2 * attention + 1)]


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as text."""
    lines = [
        f"{'family':<20}{'form':<7}{'tokens':>7}{'width':>7}{'sites':>7}{'erase, ms':>11}{'plain, ms':>11}"
        f"{'through':>9}   step with gates over untouched"
    ]
    for row in rows:
        line = f"{row['family']:<20}{row['form']:<7}{row['tokens']:7}{row['width']:7}{row['sites']:7}"
        line += f"{row['erase_ms']:11.1f}{row['plain_ms']:11.0f}{row['plain_sites']:9}"
        for count, ratio in (row["step_ratio"] or {}).items():
            line += f"   {count}: {ratio:.3f} ({row['once_ms'][count]:.0f} ms once)"
        lines.append(line)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(FAMILIES), nargs="+", default=list(FAMILIES))
    parser.add_argument("--preset", choices=list(PRESETS), default="celebrity", help="whose erasing step")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each measurement")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--json", action="store_true", help="print the figures for programs")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    shapes = {name: FAMILIES[name] for name in chosen.family}
    rows = measure(shapes, config=PRESETS[chosen.preset], counts=COUNTS, rounds=chosen.rounds)
    print(json.dumps(rows, indent=1, ensure_ascii=False) if chosen.json else report(rows))


if __name__ == "__main__":
    main()

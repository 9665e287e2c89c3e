"""What changed prompt embeddings cost: `python -m benchmarks.embeddings` (`--json` for programs).

For erasers of several sizes over a family's projections at their real shapes, with random weights: `Eraser.embeddings`
of one prompt, from what gates' files say, and beside it, in turns, the residuals that attached gates add to it.
Times are the process's own on the processor, as in `benchmarks.families`.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.family_shapes import FAMILIES, FamilyShape, projections_of
from benchmarks.family_steps import spent
from benchmarks.inference import COUNTS, drawn_gates
from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.embedding import changes_of
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.storage.files import LoadedGates


def measure(shape: FamilyShape, counts: Sequence[int] = COUNTS, rounds: int = 7) -> list[dict[str, Any]]:
    """Returns a row a number of gates.

    Args:
        shape: the family's.
        counts: numbers of gates.
        rounds: prompts, each new to all.

    Returns:
        Rows of `gates`, `embeddings_ms` and `residuals_ms` a prompt, `made_ms` a gate (the rows that its file holds,
        from the model), and `kept_kib` of them a gate.
    """
    base = projections_of(shape)
    gates = drawn_gates(GateConfig(), base.widths, base.text_width, max(counts))
    names = tuple(f"concept {number}" for number in range(max(counts)))
    made_s = spent(lambda: changes_of(gates[:1], base))
    changes = changes_of(gates, base).to(gates.up.dtype)  # (N, L·S, D)
    erasers = {
        count: Eraser([LoadedGates(names[:count], base.names, gates[:count], changes[:count])]) for count in counts
    }
    times: dict[int, tuple[list[float], list[float]]] = {count: ([], []) for count in counts}
    for number in range(-1, rounds):  # the first, which warms up, does not count
        text = torch.randn(1, base.tokens, base.text_width, generator=torch.Generator().manual_seed(number))
        for count, eraser in erasers.items():
            taken = [spent(partial(way, text)) for way in (eraser.embeddings, eraser.residuals)]
            if number >= 0:
                for own, seconds in zip(times[count], taken, strict=True):
                    own.append(seconds)
    return [
        {
            "gates": count,
            "embeddings_ms": 1e3 * median(changed),
            "residuals_ms": 1e3 * median(added),
            "made_ms": 1e3 * made_s,
            "kept_kib": changes[0].nbytes / 2**10,
        }
        for count, (changed, added) in times.items()
    ]


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as text."""
    lines = [f"{'gates':>6}{'embeddings, ms a prompt':>25}{'residuals, ms a prompt':>24}"]
    lines += [f"{row['gates']:6}{row['embeddings_ms']:25.1f}{row['residuals_ms']:24.1f}" for row in rows]
    return "\n".join([*lines, f"in a gate's file: {rows[0]['kept_kib']:.0f} KiB, made in {rows[0]['made_ms']:.0f} ms"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(FAMILIES), default="Stable Diffusion 1")
    parser.add_argument("--gates", type=int, nargs="+", default=list(COUNTS), help="sizes of erasers")
    parser.add_argument("--rounds", type=int, default=7, help="prompts for each size")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--json", action="store_true", help="print the figures for programs")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    rows = measure(FAMILIES[chosen.family], chosen.gates, chosen.rounds)
    print(json.dumps(rows, indent=1) if chosen.json else report(rows))


if __name__ == "__main__":
    main()

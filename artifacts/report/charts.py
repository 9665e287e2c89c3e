"""The report's charts of losses and its tables of how far gates open, as plain values for the page's template."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from artifacts.report.page import HeatPrompt, LossCurve
from wording.figures import SUPERSCRIPTS

TOKEN_NAMES = {"<|startoftext|>": "⟨start⟩", "<|endoftext|>": "⟨end⟩"}
POINTS_PER_STAGE = 120
WINS = 0.05  # a gate that is less open than that at every token is as good as shut
# The loss charts' plotting area, in units of their view box (360 wide, 224 high).
LEFT, RIGHT, TOP, BOTTOM = 42.0, 352.0, 22.0, 178.0


def heat_table(gate_names: Sequence[str], prompt: HeatPrompt) -> dict[str, Any]:
    """Tokens as readers know them, and each gate's cells as (openness, wins); padding is one column, its widest."""
    names = [TOKEN_NAMES.get(token, token.removesuffix("</w>")) for token in prompt.tokens]
    end = names.index("⟨end⟩") + 1 if "⟨end⟩" in names else len(names)
    padding = len(names) - end
    rows = [[*values[:end], *([max(values[end:])] if padding else [])] for values in prompt.openness]
    if padding:
        names = [*names[:end], f"⟨pad⟩ ×{padding}"]
    widest = [column.index(max(column)) for column in zip(*rows, strict=True)]
    return {
        "prompt": prompt.prompt,
        "opens": any(value >= WINS for values in rows for value in values),
        "tokens": names,
        "rows": [
            (gate, [(value, value >= WINS and number == first) for value, first in zip(values, widest, strict=True)])
            for number, (gate, values) in enumerate(zip(gate_names, rows, strict=True))
        ],
    }


def loss_parts(curves: Iterable[LossCurve]) -> list[str]:
    """Which losses there are, in the order of the curves."""
    return list(dict.fromkeys(curve.part for curve in curves))


def end_losses(curves: Sequence[LossCurve]) -> dict[str, dict[str, float | None]]:
    """The last value of each loss, by concept and part."""
    table: dict[str, dict[str, float | None]] = {}
    parts = loss_parts(curves)
    for curve in curves:
        table.setdefault(curve.concept, dict.fromkeys(parts))[curve.part] = _last(curve)
    return table


def loss_charts(curves: Sequence[LossCurve]) -> list[dict[str, Any]]:
    """One chart a loss, all on the same steps: a thin line a concept, the highest at the end first named."""
    steps = [step for curve in curves for stage in curve.stages for step, _ in stage]
    if not steps:
        return []
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def across(step: float) -> float:
        return LEFT + (RIGHT - LEFT) * (step - first) / (last - first)

    starts: dict[int, int] = {}
    for curve in curves:
        for number, stage in enumerate(curve.stages, 1):
            if stage:
                starts[number] = min(starts.get(number, stage[0][0]), stage[0][0])
    edges = [across(starts[number]) for number in sorted(starts)] + [RIGHT]
    stages = [
        {"name": str(number), "x": edges[i], "middle": (edges[i] + edges[i + 1]) / 2}
        for i, number in enumerate(sorted(starts))
    ]
    stride = _round_step((last - first) / 4)
    ticks = [(across(step), f"{step:,}") for step in range(-(-first // stride) * stride, last + 1, stride)]
    charts = []
    for part in loss_parts(curves):
        own = [curve for curve in curves if curve.part == part]
        values = [loss for curve in own for stage in curve.stages for _, loss in stage if 0 < loss < math.inf]
        if not values:
            continue
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        high = max(high, low + 1)

        def down(loss: float, low: int = low, high: int = high) -> float:
            return BOTTOM - (BOTTOM - TOP) * (math.log10(loss) - low) / (high - low)

        paths = {curve.concept: _path(curve.stages, across, down) for curve in own}
        highest = max(own, key=lambda curve: _last(curve) or 0.0)
        decades = range(low, high + 1, max(1, -(-(high - low) // 6)))
        charts.append(
            {
                "part": part,
                "highest": highest.concept,
                "end": _last(highest),
                "paths": sorted(paths.items(), key=lambda item: item[0] == highest.concept),
                "stages": stages,
                "x_ticks": ticks,
                "y_ticks": [(down(10.0**k), f"10{str(k).translate(SUPERSCRIPTS)}") for k in decades],
                "frame": (LEFT, RIGHT, TOP, BOTTOM),
            }
        )
    return charts


def _last(curve: LossCurve) -> float | None:
    values = [loss for stage in curve.stages for _, loss in stage if math.isfinite(loss)]
    return values[-1] if values else None


def _round_step(size: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 … that is not smaller."""
    decade = 10 ** max(0, math.floor(math.log10(max(size, 1))))
    return next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= size)


def _path(stages: Iterable[Sequence[tuple[int, float]]], across: Any, down: Any) -> str:
    """An SVG path through the points, broken between stages and where the loss has no logarithm."""
    words = []
    for stage in stages:
        stride = max(1, -(-len(stage) // POINTS_PER_STAGE))
        points = [*stage[::stride], *stage[-1:]]
        pen = "M"
        for step, loss in points:
            if 0 < loss < math.inf:
                words.append(f"{pen}{across(step):.1f} {down(loss):.1f}")
                pen = "L"
            else:
                pen = "M"
    return "".join(words)

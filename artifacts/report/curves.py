"""The chart of what happens as more is erased: a measure over how many concepts, a line a method, as plain values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from artifacts.report.ticks import labels_apart, percent, step_of, ticks

# The plotting area, in units of the view box (720 wide, 270 high); labels stand to the right of the last points.
WIDTH, HEIGHT = 720.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 600.0, 16.0, 222.0
LOOKS = ("", "7 4", "2 3", "9 3 2 3", "14 4", "1 4")  # dashes: lines differ in print and for the colour-blind too


@dataclass(frozen=True)
class Curve:
    """A method's measure: (number erased, (share, low, high)), at least two, fewest first."""

    name: str
    points: Sequence[tuple[int, tuple[float, float, float]]]


def curves(shown: Sequence[Curve]) -> dict[str, Any]:
    """Returns the chart's lines, bars, labels and ticks; numbers are on a logarithmic axis.

    Args:
        shown: at least one.
    """
    numbers = sorted({number for curve in shown for number, _ in curve.points})
    bounds = [ends for curve in shown for _, ends in curve.points]
    step = step_of(max(high for _, _, high in bounds) - min(low for _, low, _ in bounds))
    first = max(0.0, math.floor(min(low for _, low, _ in bounds) / step + 1e-9) * step)
    last = min(1.0, math.ceil(max(high for _, _, high in bounds) / step - 1e-9) * step)
    last = max(last, first + step)
    span = math.log(numbers[-1] / numbers[0]) or 1.0

    def across(number: int) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(number / numbers[0]) / span

    def down(share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (share - first) / (last - first)

    lines = [
        {
            "name": curve.name,
            "dash": LOOKS[place % len(LOOKS)],
            "marks": [(across(number), *(down(share) for share in ends)) for number, ends in curve.points],
            "y": down(curve.points[-1][1][0]),
            "x": across(curve.points[-1][0]),
        }
        for place, curve in enumerate(shown)
    ]
    labels_apart(lines, TOP, BOTTOM)
    return {
        "frame": (LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT),
        "lines": lines,
        "x_ticks": [(across(number), f"{number:,}") for number in numbers],
        "y_ticks": [(down(value), percent(value, step)) for value in ticks(first, last, step)],
    }

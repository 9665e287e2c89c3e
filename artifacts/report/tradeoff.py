"""The chart of what erasing takes away and what it leaves, as plain values for the page's template."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The plotting area, in units of the view box (720 wide, 330 high); labels stand to the right of the points.
WIDTH, HEIGHT = 720.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 600.0, 16.0, 278.0
APART = 15.0  # between two labels, from line to line
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Point:
    """One way of erasing: what is left of the erased concepts and of the kept ones, each a share, its low and high."""

    name: str
    erased: tuple[float, float, float]
    kept: tuple[float, float, float]


def tradeoff(points: Sequence[Point]) -> dict[str, Any]:
    """Returns the chart's points, bars, labels and ticks; the best corner is the upper left.

    Args:
        points: at least one.
    """
    most = max(point.erased[2] for point in points)
    least = min(point.kept[1] for point in points)
    step_x, step_y = _step(most), _step(1 - least)
    end_x = min(1.0, math.ceil(round(most / step_x, 6)) * step_x) or step_x
    end_y = max(0.0, 1 - (math.ceil(round((1 - least) / step_y, 6)) * step_y or step_y))

    def across(share: float) -> float:
        return LEFT + (RIGHT - LEFT) * share / end_x

    def down(share: float) -> float:
        return TOP + (BOTTOM - TOP) * (1 - share) / (1 - end_y)

    marks = [
        {
            "name": point.name,
            "x": across(point.erased[0]),
            "y": down(point.kept[0]),
            "x_range": (across(point.erased[1]), across(point.erased[2])),
            "y_range": (down(point.kept[2]), down(point.kept[1])),
        }
        for point in points
    ]
    _place_labels(marks)
    return {
        "frame": (LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT),
        "marks": marks,
        "x_ticks": [(across(value), _percent(value, step_x)) for value in _ticks(0.0, end_x, step_x)],
        "y_ticks": [(down(value), _percent(value, step_y)) for value in _ticks(end_y, 1.0, step_y)],
    }


def _place_labels(marks: list[dict[str, Any]]) -> None:
    """Gives every mark the height of its label in the column at the right, none above another."""
    below = TOP - APART + 6
    for mark in sorted(marks, key=lambda mark: (mark["y"], mark["x"])):
        mark["label_y"] = below = max(mark["y"], below + APART)
    overhang = below - BOTTOM
    for mark in marks if overhang > 0 else ():
        mark["label_y"] -= overhang


def _step(extent: float) -> float:
    """Returns the distance of ticks for an axis of that length: some five of them."""
    return next((step for step in STEPS if step >= extent / 5), STEPS[-1])


def _ticks(start: float, end: float, step: float) -> list[float]:
    return [start + number * step for number in range(round((end - start) / step + 1e-9) + 1)]


def _percent(share: float, step: float) -> str:
    return f"{100 * share:.{1 if step < 0.01 else 0}f} %"

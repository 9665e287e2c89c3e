"""The chart of what erasing takes away and what it leaves, as plain values for the page's template."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from artifacts.report.ticks import labels_apart, percent, step_of, ticks

# The plotting area, in units of the view box (720 wide, 330 high); labels stand to the right of the points.
WIDTH, HEIGHT = 720.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 600.0, 16.0, 278.0


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
    step_x, step_y = step_of(most), step_of(1 - least)
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
    labels_apart(marks, TOP, BOTTOM)
    return {
        "frame": (LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT),
        "marks": marks,
        "x_ticks": [(across(value), percent(value, step_x)) for value in ticks(0.0, end_x, step_x)],
        "y_ticks": [(down(value), percent(value, step_y)) for value in ticks(end_y, 1.0, step_y)],
    }

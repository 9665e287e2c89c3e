"""Axes of shares: where ticks are, what they say, and labels that do not cover each other."""

from collections.abc import Sequence
from typing import Any

APART = 15.0  # between two labels, from line to line
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def labels_apart(marks: Sequence[dict[str, Any]], top: float, bottom: float) -> None:
    """Gives every mark (`x`, `y`) the height of its label in the column at the right, none above another."""
    below = top - APART + 6
    for mark in sorted(marks, key=lambda mark: (mark["y"], mark["x"])):
        mark["label_y"] = below = max(mark["y"], below + APART)
    overhang = below - bottom
    for mark in marks if overhang > 0 else ():
        mark["label_y"] -= overhang


def step_of(extent: float) -> float:
    """Returns the distance of ticks for an axis of that length: some five of them."""
    return next((step for step in STEPS if step >= extent / 5), STEPS[-1])


def ticks(start: float, end: float, step: float) -> list[float]:
    """Returns the ticks from start to end."""
    return [start + number * step for number in range(round((end - start) / step + 1e-9) + 1)]


def percent(share: float, step: float) -> str:
    """Returns what a tick says, as exactly as the distance of ticks asks for."""
    return f"{100 * share:.{1 if step < 0.01 else 0}f} %"

"""How far pictures moved from the untouched ones of the same prompts and seeds (`cpe.metrics.moved`), as metrics."""

# Axes: P pictures.

from collections.abc import Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray

from cpe.metrics.base import Metric
from cpe.metrics.score import Score, mean_score


def _mean(name: str, unit: str, values: Mapping[str, NDArray[Any]], clusters: NDArray[Any] | None) -> list[Score]:
    return [mean_score(name, values[name], unit=unit, clusters=clusters)]


DISTANCE = Metric(
    name="kept_distance",
    label="How far pictures moved from the untouched ones",
    unit="distance",
    needs=("kept_distance",),
    score=partial(_mean, "kept_distance", "squared feature distance"),
    roles=("kept",),
    phases=("after",),
    by_concept=True,
)
PSNR = Metric(
    name="kept_psnr",
    label="PSNR to the untouched pictures in dB",
    unit="points",
    needs=("kept_psnr",),
    score=partial(_mean, "kept_psnr", "dB"),
    higher=("kept",),
    roles=("kept",),
    phases=("after",),
    by_concept=True,
)

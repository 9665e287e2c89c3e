"""A score: a value with its interval, the number of pictures behind it, and its unit."""

# Axes: N pictures, D features.

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

Features = Union[ArrayLike, "Tensor"]
Seed = int | np.random.Generator

RESAMPLES = 1000
LEVEL = 0.95
VALUES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Score:
    """One measured number.

    Attributes:
        name: what was measured.
        value: the score itself.
        low: lower end of its 95 % interval; None where there is no honest one.
        high: upper end.
        count: pictures it was measured on.
        unit: what one unit of the value is.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    count: int
    unit: str


def bootstrap_means(
    values: NDArray[np.float64], rng: np.random.Generator, *, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Returns the means of resamples drawn with replacement, (resamples,).

    The values are sorted first, so that a seed gives the same means in whatever order the pictures come.
    """
    values = np.sort(values)
    chunk = max(1, VALUES_AT_ONCE // len(values))
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    drawn = (values[rng.integers(len(values), size=(size, len(values)))].mean(axis=1) for size in sizes)
    return np.concatenate(list(drawn))


def percentile_interval(statistics: NDArray[np.float64], *, level: float = LEVEL) -> tuple[float, float]:
    """Returns the two percentiles between which the share `level` of the resampled statistics lies."""
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_score(name: str, values: NDArray[np.float64], *, unit: str, seed: Seed = 0) -> Score:
    """Returns the mean of one value a picture, with the percentile bootstrap's interval.

    Where all values are equal the interval has no width: the bootstrap cannot see what was not drawn. With n
    pictures all right, an error rate of about 3/n is still within 95 %.

    Args:
        name: of the score.
        values: one for each picture, (N,).
        unit: of the values.
        seed: of the resampling, or its generator.
    """
    if not len(values):
        raise ValueError(f"{name} needs at least one picture, got none; were all of them filtered out?")
    low, high = percentile_interval(bootstrap_means(values, np.random.default_rng(seed)))
    return Score(name, float(np.sort(values).mean()), low, high, len(values), unit)


def as_matrix(features: Features, argument: str, *, at_least: int = 1, first: int = 0) -> NDArray[np.float64]:
    """Returns features as a finite float64 matrix, (N, D); checks that there are enough of them.

    Args:
        features: (N, D).
        argument: what messages call them.
        at_least: how many there must be.
        first: number of the first row, where they are some of more.
    """
    detach = getattr(features, "detach", None)
    matrix = np.asarray(features if detach is None else detach().double().cpu().numpy(), dtype=np.float64)
    if matrix.size == 0 or len(matrix) < at_least:
        found = len(matrix) if matrix.ndim else 0
        raise ValueError(f"{argument} needs at least {at_least} picture(s), got {found}; add pictures")
    if matrix.ndim != 2:
        raise ValueError(
            f"{argument} must be (pictures, features), got shape {matrix.shape}; flatten each picture's features"
        )
    if not np.isfinite(matrix).all():
        bad = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise ValueError(f"{argument} must be finite, row {first + bad} is not; compute the features in float32")
    return matrix

"""A score: a value with its interval, the number of pictures behind it, and its unit."""

# Axes: N pictures, D features.

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

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
    values: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    clusters: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Returns the means of resamples drawn with replacement, (resamples,).

    Whole clusters are drawn, one fewer than there are: so their means spread as those of new samples do, however few
    the clusters. Everything is sorted first, so that a seed gives the same means in whatever order the pictures come.

    Args:
        values: one a picture, (N,).
        rng: of the drawing.
        resamples: how many.
        clusters: what each picture shares with others that are not independent of it, (N,); None: each stands alone.

    Source: Rao and Wu, JASA 83, 1988: the rescaled bootstrap of samples of clusters.
    """
    sums, counts = _by_cluster(values, clusters)
    chunk = max(1, VALUES_AT_ONCE // len(sums))
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]

    def means(size: int) -> NDArray[np.float64]:
        rows = rng.integers(len(sums), size=(size, max(1, len(sums) - 1)))
        drawn: NDArray[np.float64] = sums[rows].sum(axis=1) / counts[rows].sum(axis=1)
        return drawn

    return np.concatenate([means(size) for size in sizes])


def percentile_interval(statistics: NDArray[np.float64], *, level: float = LEVEL) -> tuple[float, float]:
    """Returns the two percentiles between which the share `level` of the resampled statistics lies."""
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def effective_count(right: NDArray[np.float64], clusters: NDArray[Any] | None = None, *, level: float = LEVEL) -> float:
    """Returns how many independent pictures tell as much about a share as these, of which some go together.

    p (1 − p) over the variance between clusters, less for few clusters, whose variance is itself uncertain. Where all
    clusters have the same share, all pictures count if they differ inside clusters; if they do not, nothing says that a
    cluster's pictures could have differed, and each cluster counts as one.

    Args:
        right: 0 or 1 a picture, (N,).
        clusters: what each picture shares with others that are not independent of it, (N,); None: all count.
        level: of the interval that it is for.

    Source: Korn and Graubard, Survey Methodology 24, 1998.
    """
    if clusters is None or len(right) < 2:
        return len(right)
    from scipy import stats  # takes half a second, which whoever only shows scores need not wait

    sums, counts = _by_cluster(right, clusters)
    share, groups = right.mean(), len(sums)
    apart = ((sums - share * counts) ** 2).sum() / len(right) ** 2
    if groups < 2 or apart < 1e-12:
        return len(right) if np.ptp(right) else groups
    tails = [float(stats.t.ppf((1 + level) / 2, freedom)) for freedom in (len(right) - 1, groups - 1)]
    found = share * (1 - share) / (apart * groups / (groups - 1)) * (tails[0] / tails[1]) ** 2
    return min(float(found), len(right))


def exact_share_interval(share: float, count: float, *, level: float = LEVEL) -> tuple[float, float]:
    """Returns the interval of a share seen in so many independent pictures: 0 of 6 gives 0 to 45.9 %.

    Source: Clopper and Pearson, Biometrika 26, 1934.
    """
    from scipy import stats

    right, tail = share * count, (1 - level) / 2
    low = float(stats.beta.ppf(tail, right, count - right + 1)) if right > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, right + 1, count - right)) if right < count else 1.0
    return low, high


def exact_rate_interval(rate: float, count: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Returns the interval of a mean number of detections, seen in so many independent pictures.

    Source: Garwood, Biometrika 28, 1936.
    """
    from scipy import stats

    events, tail = rate * count, (1 - level) / 2
    low = float(stats.gamma.ppf(tail, events)) / count if events > 0 else 0.0
    return low, float(stats.gamma.ppf(1 - tail, events + 1)) / count


def mean_score(
    name: str, values: NDArray[np.float64], *, unit: str, clusters: NDArray[Any] | None = None, seed: Seed = 0
) -> Score:
    """Returns the mean of one value a picture, with its interval.

    That is Clopper's and Pearson's exact one for pictures that are right or wrong, over as many as `effective_count`
    says; else the percentile bootstrap's. Where that has no width, since it cannot see what was not drawn, a number of
    detections has Garwood's, over clusters.

    Args:
        name: of the score.
        values: one for each picture, (N,).
        unit: of the values, such as "share" or "detections".
        clusters: what pictures share that are not independent of each other, such as their concept, (N,).
        seed: of the resampling, or its generator.
    """
    if not len(values):
        raise ValueError(f"{name} needs at least one picture, got none; were all of them filtered out?")
    value = float(np.sort(values).mean())
    if unit == "share" and np.isin(values, (0.0, 1.0)).all():
        low, high = exact_share_interval(value, effective_count(values, clusters))
    else:
        low, high = percentile_interval(bootstrap_means(values, np.random.default_rng(seed), clusters=clusters))
        if unit == "detections" and high - low < 1e-12:
            low, high = exact_rate_interval(value, len(values) if clusters is None else len(np.unique(clusters)))
    return Score(name, value, min(low, value), max(high, value), len(values), unit)


def _by_cluster(
    values: NDArray[np.float64], clusters: NDArray[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns each cluster's sum and number of values, sorted."""
    if clusters is None:
        return np.sort(values), np.ones(len(values))
    if len(clusters) != len(values):
        raise ValueError(f"clusters must name every picture, {len(values)}, got {len(clusters)}; join them by row id")
    numbers = np.unique(clusters, return_inverse=True)[1]
    by_value = np.lexsort((values, numbers))
    sums: NDArray[np.float64] = np.bincount(numbers[by_value], values[by_value]).astype(np.float64)
    counts: NDArray[np.float64] = np.bincount(numbers).astype(np.float64)
    order = np.lexsort((counts, sums))
    return sums[order], counts[order]


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

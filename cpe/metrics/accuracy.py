"""Accuracy of a classifier on generated pictures, and the balance of erasing and keeping (H0)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpe.metrics.score import RESAMPLES, Score, Seed, effective_count, mean_score, percentile_interval

Labels = Sequence[Any] | NDArray[Any]


def accuracy(
    predicted: Labels,
    wanted: Labels,
    *,
    name: str = "accuracy",
    clusters: NDArray[Any] | None = None,
    seed: Seed = 0,
) -> Score:
    """Returns the share of pictures that were classified as wanted, with the interval of `mean_score`.

    Args:
        predicted: the label of each picture; None matches nothing wanted but None.
        wanted: the label its prompt asked for.
        name: of the score.
        clusters: what pictures share that are not independent of each other; None: each stands alone.
        seed: of the bootstrap, or its generator.

    Raises:
        ValueError: no picture, or lists of different lengths.
    """
    if len(predicted) != len(wanted):
        raise ValueError(
            f"predicted and wanted must pair up, got {len(predicted)} and {len(wanted)}; join them by row id"
        )
    right = _right([a == b for a, b in zip(predicted, wanted, strict=True)], name)
    return mean_score(name, right, unit="share", clusters=clusters, seed=seed)


def harmonic(erased_accuracy: float, kept_accuracy: float) -> float:
    """Returns H0: the harmonic mean of 1 − erased accuracy and kept accuracy, 0 where both are 0.

    Args:
        erased_accuracy: share of the erased concepts' pictures still recognised, 0 to 1.
        kept_accuracy: share of the kept concepts' pictures recognised, 0 to 1.

    Raises:
        ValueError: a share outside 0 to 1.

    Source: MACE (Lu et al., CVPR 2024), as used by CPE for celebrities.
    """
    for argument, share in (("erased_accuracy", erased_accuracy), ("kept_accuracy", kept_accuracy)):
        if not 0 <= share <= 1:
            raise ValueError(f"{argument} must be a share from 0 to 1, got {share}; divide a percentage by 100")
    return float(_harmonic(np.float64(erased_accuracy), np.float64(kept_accuracy)))


def h0(
    erased_right: Labels,
    kept_right: Labels,
    *,
    name: str = "h0",
    clusters: tuple[NDArray[Any] | None, NDArray[Any] | None] = (None, None),
    seed: Seed = 0,
) -> Score:
    """Returns H0 of two sets of pictures, with the interval of shares drawn for both sets, each on its own.

    They are drawn from the distributions between those whose quantiles are Clopper's and Pearson's bounds, over as many
    pictures as `effective_count` says.

    Args:
        erased_right: for each picture of an erased concept, whether it was still recognised.
        kept_right: for each picture of a kept concept, whether it was recognised.
        name: of the score.
        clusters: of either set, what pictures share that are not independent of each other.
        seed: of the drawing, or its generator.

    Raises:
        ValueError: one of the sets is empty, or holds something other than yes and no.
    """
    rng = np.random.default_rng(seed)
    erased, kept = _right(erased_right, "erased_right"), _right(kept_right, "kept_right")
    resampled = _harmonic(_likely_shares(erased, clusters[0], rng), _likely_shares(kept, clusters[1], rng))
    value = harmonic(float(erased.mean()), float(kept.mean()))
    low, high = percentile_interval(resampled)
    return Score(name, value, min(low, value), max(high, value), len(erased) + len(kept), "share")


def _likely_shares(
    right: NDArray[np.float64], clusters: NDArray[Any] | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Returns shares that might as well have been the true one, (resamples,)."""
    count = effective_count(right, clusters)
    seen = right.mean() * count
    below, above = (0 if seen == 0 else 0.5), (0 if seen >= count else 0.5)
    return rng.beta(seen + 1 - below, count - seen + 1 - above, RESAMPLES)


def _harmonic(erased: Any, kept: Any) -> Any:
    away = 1 - erased
    total = away + kept
    return np.where(total > 0, 2 * away * kept / np.where(total > 0, total, 1), 0.0)


def _right(flags: Labels, argument: str) -> NDArray[np.float64]:
    if not len(flags):
        raise ValueError(f"{argument} needs at least one picture, got none; were all of them filtered out?")
    values = np.array([float(flag) for flag in flags])
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError(f"{argument} must hold yes and no, got {float(values[~np.isin(values, (0.0, 1.0))][0])}")
    return values

"""Distances between two sets of pictures: Fréchet (FID) and kernel (KID).

The features decide what the result may be called: FID and KID are Inception's, resized as clean-fid does.
"""

# Axes: N pictures, D features.

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpe.metrics.reference import ROWS_AT_ONCE, Statistics, statistics_of
from cpe.metrics.score import Features, Score, Seed, as_matrix

SUBSET = 1000
NOT_POSITIVE = 1e-5  # how far below 0 a covariance kept in float32 may have an eigenvalue, as a share of its largest


def frechet_distance(features_a: Features, features_b: Features, *, name: str = "frechet_distance") -> Score:
    """Returns the squared Fréchet distance of two Gaussians fitted to features, in float64.

    ‖μa − μb‖² + tr(Σa + Σb − 2 (Σa Σb)^½). With roots RᵀR = Σ the last trace is the sum of the singular values of
    Ra Rbᵀ. Fewer pictures than features are their own root once centred, so no digits are lost where a covariance is
    not of full rank; of more, mean and covariance are collected some rows at a time, so memory does not grow with them.

    Few pictures overstate the distance: two samples of one distribution are farther apart the smaller they are.
    Compare only distances measured with equal counts; 10,000 and more is usual, and `kernel_distance` has no
    such bias. For the same reason no interval is given: resamples are more alike inside than samples are.

    Args:
        features_a: (Na, D), at least 2 pictures; perhaps mapped from a file.
        features_b: (Nb, D), at least 2 pictures.
        name: of the score.

    Returns:
        The score; its count is that of the smaller set.

    Raises:
        ValueError: fewer than 2 pictures, features that are not finite, or widths that differ.

    Source: Heusel et al., NeurIPS 2017, equation 6.
    """
    a, b = _pair(features_a, features_b)
    value = _gaussian_distance(*_gaussian(a, "features_a"), *_gaussian(b, "features_b"))
    return Score(name, value, None, None, min(len(a), len(b)), "squared feature distance")


def frechet_distance_to(statistics: Statistics, features: Features, *, name: str = "frechet_distance") -> Score:
    """Returns the squared Fréchet distance of features from a reference of which only statistics are kept.

    It is `frechet_distance` of the reference's own features and these, and overstates in the same way.

    Args:
        statistics: of the reference.
        features: (N, D), at least 2 pictures.
        name: of the score.

    Returns:
        The score; its count is that of the smaller set, or of the features where the reference's is not known.

    Raises:
        ValueError: fewer than 2 pictures, features that are not finite or of another width than the statistics, or a
            covariance with negative eigenvalues.

    Source: Heusel et al., NeurIPS 2017, equation 6.
    """
    seen, width = _matrix(features, "features"), len(statistics.mean)
    if seen.shape[1] != width:
        raise ValueError(f"features need the reference's width {width}, got {seen.shape[1]}; use one extractor")
    value = _gaussian_distance(*_gaussian(seen, "features"), statistics.mean, _root_of(statistics))
    count = min(len(seen), statistics.count or len(seen))
    return Score(name, value, None, None, count, "squared feature distance")


def kernel_distance(
    features_a: Features,
    features_b: Features,
    *,
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    name: str = "kernel_distance",
    subsets: int = 100,
    subset_size: int = SUBSET,
    seed: Seed = 0,
) -> Score:
    """Returns the unbiased squared maximum mean discrepancy under the kernel (x·y / D + 1)³, averaged over subsets.

    As in clean-fid, a subset at a time is in memory in double precision, whatever the number of pictures.

    Where several pictures come from one prompt they are no independent samples: name the prompts as `groups`, and
    pictures of the same prompt are never compared with each other, neither within a set nor across. Being
    unbiased the result can be negative where the sets are alike. No interval is given: subsets overlap, so their
    spread is not that of independent samples.

    Args:
        features_a: (Na, D), at least 2 pictures.
        features_b: (Nb, D), at least 2 pictures.
        groups: what each picture of each set shares with others, (Na,) and (Nb,); None: every picture is its own.
        name: of the score.
        subsets: pairs of subsets drawn; one where the subsets are the whole sets.
        subset_size: pictures in each, at most what the smaller set has.
        seed: of the drawing, or its generator.

    Returns:
        The score; its count is that of the smaller set.

    Raises:
        ValueError: fewer than 2 pictures, features that are not finite, widths that differ, or no subset.

    Source: Bińkowski et al., ICLR 2018, section 4.
    """
    a, b = _pair(features_a, features_b)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"subsets must be at least 1 and subset_size at least 2, got {subsets} and {subset_size}")
    size = min(subset_size, len(a), len(b))
    rng = np.random.default_rng(seed)
    group_a, group_b = _group_numbers(groups, len(a), len(b))
    if size == len(a) == len(b):
        values = [_discrepancy(as_matrix(a, "features_a"), as_matrix(b, "features_b"), group_a, group_b)]
    else:
        values = []
        for _ in range(subsets):
            one, other = rng.choice(len(a), size, replace=False), rng.choice(len(b), size, replace=False)
            drawn = as_matrix(a[one], "features_a"), as_matrix(b[other], "features_b")
            values.append(_discrepancy(*drawn, group_a[one], group_b[other]))
    return Score(name, float(np.mean(values)), None, None, min(len(a), len(b)), "squared kernel distance")


def _pair(features_a: Features, features_b: Features) -> tuple[Any, Any]:
    a, b = _matrix(features_a, "features_a"), _matrix(features_b, "features_b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"both sets need the same features, got widths {a.shape[1]} and {b.shape[1]}; use one extractor"
        )
    return a, b


def _matrix(features: Features, argument: str) -> Any:
    """Returns features as they are, (N, D), once they have been looked at some rows at a time."""
    matrix: Any = features if hasattr(features, "shape") else np.asarray(features)
    if matrix.ndim != 2 or len(matrix) < 2:
        return as_matrix(matrix, argument, at_least=2)  # says what is wrong
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        as_matrix(matrix[start : start + ROWS_AT_ONCE], argument, first=start)
    return matrix


def _gaussian(features: Any, argument: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the mean (D,) of features (N, D), and a matrix R with RᵀR = their covariance, of at most D rows."""
    if len(features) > features.shape[1]:
        statistics = statistics_of(features, argument=argument)
        return statistics.mean, _root_of(statistics)
    few = as_matrix(features, argument)
    mean = few.mean(axis=0)
    return mean, (few - mean) / np.sqrt(len(few) - 1)


def _gaussian_distance(
    mean_a: NDArray[np.float64], root_a: NDArray[np.float64], mean_b: NDArray[np.float64], root_b: NDArray[np.float64]
) -> float:
    """Returns the distance of two Gaussians by their means (D,) and roots R with RᵀR = covariance, (rows, D)."""
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    value = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * shared
    return max(float(value), 0.0)


def _root_of(statistics: Statistics) -> NDArray[np.float64]:
    """Returns a matrix R with RᵀR = covariance, of as many rows as the covariance has rank.

    Eigenvalues that are rounding errors are left out: their roots would not be small.
    """
    values, vectors = np.linalg.eigh(statistics.covariance)  # (D,) from the smallest, and (D, D)
    largest = values[-1]
    if values[0] < -NOT_POSITIVE * abs(largest):
        raise ValueError(
            f"the reference's covariance must have no negative eigenvalue, got {values[0]:.3g} beside {largest:.3g}; "
            "compute its statistics again"
        )
    told = values > len(values) * np.finfo(np.float64).eps * largest
    root: NDArray[np.float64] = np.sqrt(values[told])[:, None] * vectors[:, told].T
    return root


def _group_numbers(
    groups: tuple[ArrayLike, ArrayLike] | None, count_a: int, count_b: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns a number for each picture's group; without groups every picture of both sets has its own."""
    if groups is None:
        return np.arange(count_a), np.arange(count_a, count_a + count_b)
    names = [np.asarray(part) for part in groups]
    if [len(part) for part in names] != [count_a, count_b]:
        raise ValueError(f"groups must name every picture, {count_a} and {count_b}, got {[len(p) for p in names]}")
    numbers = np.unique(np.concatenate(names), return_inverse=True)[1]
    if len(np.unique(numbers[:count_a])) < 2 or len(np.unique(numbers[count_a:])) < 2:
        raise ValueError("each set needs pictures of at least 2 groups; nothing is left to compare otherwise")
    return numbers[:count_a], numbers[count_a:]


def _discrepancy(
    a: NDArray[np.float64], b: NDArray[np.float64], group_a: NDArray[np.int64], group_b: NDArray[np.int64]
) -> float:
    def mean_kernel(x: NDArray[np.float64], y: NDArray[np.float64], gx: Any, gy: Any) -> float:
        apart = gx[:, None] != gy[None]
        return float(((x @ y.T / x.shape[1] + 1) ** 3)[apart].mean())

    within = mean_kernel(a, a, group_a, group_a) + mean_kernel(b, b, group_b, group_b)
    return within - 2 * mean_kernel(a, b, group_a, group_b)

"""Distances between two sets of pictures: Fréchet (FID) and kernel (KID).

The features decide what the result may be called: FID and KID are Inception's, resized as clean-fid does.
"""

# Axes: N pictures, D features.

import numpy as np
from numpy.typing import NDArray

from cpe.metrics.score import Features, Score, Seed, as_matrix

SUBSET = 1000


def frechet_distance(features_a: Features, features_b: Features, *, name: str = "frechet_distance") -> Score:
    """Returns the squared Fréchet distance of two Gaussians fitted to features, in float64.

    ‖μa − μb‖² + tr(Σa + Σb − 2 (Σa Σb)^½). With centred features Σ = XᵀX / (N − 1), the last trace is the sum of
    the singular values of Xa Xbᵀ / √((Na − 1)(Nb − 1)): no matrix root is taken, so covariances that are not of
    full rank (fewer pictures than features) lose no digits.

    Few pictures overstate the distance: two samples of one distribution are farther apart the smaller they are.
    Compare only distances measured with equal counts; 10,000 and more is usual, and `kernel_distance` has no
    such bias. For the same reason no interval is given: resamples are more alike inside than samples are.

    Args:
        features_a: (Na, D), at least 2 pictures.
        features_b: (Nb, D), at least 2 pictures.
        name: of the score.

    Returns:
        The score; its count is that of the smaller set.

    Raises:
        ValueError: fewer than 2 pictures, features that are not finite, or widths that differ.

    Source: Heusel et al., NeurIPS 2017, equation 6.
    """
    a, b = _pair(features_a, features_b)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)  # (D,)
    root_a, root_b = _covariance_root(a - mean_a), _covariance_root(b - mean_b)  # (min(N, D), D) each
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    value = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * shared
    return Score(name, max(float(value), 0.0), None, None, min(len(a), len(b)), "squared feature distance")


def kernel_distance(
    features_a: Features,
    features_b: Features,
    *,
    name: str = "kernel_distance",
    subsets: int = 100,
    subset_size: int = SUBSET,
    seed: Seed = 0,
) -> Score:
    """Returns the unbiased squared maximum mean discrepancy under the kernel (x·y / D + 1)³, averaged over subsets.

    Being unbiased it can be negative where the sets are alike. No interval is given: subsets overlap, so their
    spread is not that of independent samples.

    Args:
        features_a: (Na, D), at least 2 pictures.
        features_b: (Nb, D), at least 2 pictures.
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
    if size == len(a) == len(b):
        values = [_discrepancy(a, b)]
    else:
        values = [
            _discrepancy(a[rng.choice(len(a), size, replace=False)], b[rng.choice(len(b), size, replace=False)])
            for _ in range(subsets)
        ]
    return Score(name, float(np.mean(values)), None, None, min(len(a), len(b)), "squared kernel distance")


def _pair(features_a: Features, features_b: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = as_matrix(features_a, "features_a", at_least=2), as_matrix(features_b, "features_b", at_least=2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"both sets need the same features, got widths {a.shape[1]} and {b.shape[1]}; use one extractor"
        )
    return a, b


def _covariance_root(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns a matrix R with RᵀR = covariance, of at most D rows."""
    scaled = centred / np.sqrt(len(centred) - 1)
    if len(scaled) <= scaled.shape[1]:
        return scaled
    root: NDArray[np.float64] = np.linalg.qr(scaled, mode="r")  # type: ignore[assignment]
    return root


def _discrepancy(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: NDArray[np.float64]) -> float:
        products = kernel(x, x)
        return float((products.sum() - np.trace(products)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())

"""Scores against independent implementations, and what their intervals promise."""

import tracemalloc
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpe.metrics.accuracy import accuracy, h0, harmonic
from cpe.metrics.clip_score import clip_score
from cpe.metrics.frechet import frechet_distance, kernel_distance
from cpe.metrics.score import Score, bootstrap_means, mean_score


def features(seed: int, *shape: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + shift


def test_accuracy_is_the_share_of_right_pictures_with_its_count() -> None:
    score = accuracy(["cat", "dog", None, "cat"], ["cat", "cat", "cat", "cat"])
    assert (score.name, score.value, score.count, score.unit) == ("accuracy", 0.5, 4, "share")
    assert score.low is not None
    assert score.high is not None
    assert 0 <= score.low <= 0.5 <= score.high <= 1
    assert accuracy(np.array([1, 2]), torch.tensor([1, 1]), name="top_1").value == 0.5


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    rng, truth = np.random.default_rng(0), 0.7
    hits = 0
    for repeat in range(300):
        right = rng.random(100) < truth
        score = accuracy(right.tolist(), [True] * 100, seed=repeat)
        assert score.low is not None
        assert score.high is not None
        hits += score.low <= truth <= score.high
    assert 0.90 <= hits / 300 <= 0.98  # exact binomial coverage varies with the grid of 1/100; 3 sigma is 0.04


def test_h0_intervals_hold_the_truth_too() -> None:
    rng, truth = np.random.default_rng(1), harmonic(0.2, 0.8)
    hits = 0
    for repeat in range(200):
        score = h0(rng.random(80) < 0.2, rng.random(120) < 0.8, seed=repeat)
        assert score.low is not None
        assert score.high is not None
        hits += score.low <= truth <= score.high
    assert hits / 200 >= 0.88


def binomial(right: int, count: int) -> tuple[float, float]:
    found = scipy.stats.binomtest(right, count).proportion_ci(0.95, "exact")
    return found.low, found.high


def ends(score: Score) -> tuple[float, float]:
    assert score.low is not None
    assert score.high is not None
    return score.low, score.high


@pytest.mark.parametrize(("right", "count"), [(0, 6), (6, 6), (0, 300), (1, 1)])
def test_where_all_pictures_agree_the_interval_is_the_exact_one(right: int, count: int) -> None:
    score = accuracy([1] * right + [0] * (count - right), [1] * count)
    assert ends(score) == pytest.approx(binomial(right, count))
    assert score.value == right / count


def test_where_all_concepts_agree_each_counts_as_one_picture() -> None:
    concepts = np.repeat(np.arange(10), 30)
    assert ends(accuracy([0] * 300, [1] * 300, clusters=concepts)) == pytest.approx(binomial(0, 10))
    half = np.tile([0, 1], 150)  # pictures differ, concepts do not: pictures are independent
    assert ends(accuracy(half, [1] * 300, clusters=concepts)) == pytest.approx(binomial(150, 300))
    assert ends(accuracy([0, 0], [1, 1], clusters=np.zeros(2))) == pytest.approx(binomial(0, 1))


def test_no_detection_in_few_pictures_is_not_none_in_many() -> None:
    low, high = ends(mean_score("detections", np.zeros(20), unit="detections"))
    assert (low, high * 20) == pytest.approx((0, -np.log(0.025)))
    assert ends(mean_score("points", np.ones(5), unit="points")) == (1, 1)


def test_h0_of_sets_that_agree_is_as_uncertain_as_their_shares() -> None:
    low, high = ends(h0([False] * 6, [True] * 8))
    shares = binomial(0, 6)[1], binomial(8, 8)[0]
    assert harmonic(*shares) < low < harmonic(0, shares[1]) + 0.1
    assert low < 0.85
    assert high == 1


@pytest.mark.parametrize(("right", "shape"), [(0, (1, 6.5)), (3, (3.5, 3.5)), (6, (6.5, 1))])
def test_h0_is_as_uncertain_as_the_erased_share_where_all_kept_are_right(
    right: int, shape: tuple[float, float]
) -> None:
    low, high = scipy.stats.beta.ppf([0.025, 0.975], *shape)  # between those of Clopper's and Pearson's bounds
    score = h0([True] * right + [False] * (6 - right), [True] * 100_000)
    assert ends(score) == pytest.approx((harmonic(high, 1), harmonic(low, 1)), abs=0.05)  # drawn a thousand times


@pytest.mark.parametrize(("concepts", "hit"), [(6, 0.88), (24, 0.92)])
def test_intervals_hold_the_truth_where_concepts_fail_as_wholes(concepts: int, hit: float) -> None:
    """As erasing does: a neighbour is damaged in most of its pictures, or in none.

    Six concepts tell little of how much concepts differ: their intervals hold the truth 90 times in 100.
    """
    rng, hits, naive = np.random.default_rng(concepts), 0, 0
    names = np.repeat(np.arange(concepts), 20)
    for repeat in range(300):
        right = (rng.random(len(names)) < rng.beta(0.4, 0.1, concepts)[names]).tolist()
        for clusters in (names, None):
            low, high = ends(accuracy(right, [True] * len(names), clusters=clusters, seed=repeat))
            inside = low <= 0.8 <= high
            hits, naive = hits + (inside and clusters is not None), naive + (inside and clusters is None)
    assert hits / 300 >= hit, hits
    assert naive / 300 < 0.6, "pictures taken for independent promise too much"


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)))
def test_scores_do_not_depend_on_the_order_of_pictures(order: list[int]) -> None:
    index = np.array(order)
    right = np.arange(12) % 3 == 0
    assert accuracy(right[index], [True] * 12) == accuracy(right, [True] * 12)
    assert h0(right[index], ~right[index]) == h0(right, ~right)
    names = np.arange(12) // 4
    alike = accuracy(right, [True] * 12, clusters=names)
    assert accuracy(right[index], [True] * 12, clusters=names[index]) == alike
    images, texts = features(0, 12, 4), features(1, 12, 4)
    assert clip_score(images[index], texts[index], 1.0) == clip_score(images, texts, 1.0)
    for distance in (frechet_distance, kernel_distance):
        there, here = distance(images[index], texts), distance(images, texts)
        assert there.value == pytest.approx(here.value, rel=1e-9)


def test_a_seed_and_its_generator_give_the_same_interval_and_the_value_needs_neither() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert mean_score("m", values, unit="1", seed=3) == mean_score("m", values, unit="1", seed=np.random.default_rng(3))
    assert mean_score("m", values, unit="1", seed=3).value == pytest.approx(values.mean(), abs=1e-15)
    assert mean_score("m", values, unit="1", seed=3) != mean_score("m", values, unit="1", seed=4)


def test_resampled_means_have_the_spread_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=400)
    means = bootstrap_means(values, np.random.default_rng(1), resamples=4000)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.06)


@given(st.floats(0, 1), st.floats(0, 1))
def test_h0_is_the_harmonic_mean_of_what_is_gone_and_what_is_kept(erased: float, kept: float) -> None:
    parts = [1 - erased, kept]
    expected = 0.0 if min(parts) < 1e-300 else 2 / (1 / parts[0] + 1 / parts[1])
    assert harmonic(erased, kept) == pytest.approx(expected, abs=1e-12)
    assert min(parts) - 1e-12 <= harmonic(erased, kept) <= max(parts) + 1e-12


def test_h0_of_pictures_is_h0_of_their_two_accuracies() -> None:
    erased, kept = [True] * 3 + [False] * 97, [True] * 45 + [False] * 5
    score = h0(erased, kept)
    assert score.value == harmonic(0.03, 0.9)
    assert (score.count, score.unit) == (150, "share")
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high


@pytest.mark.parametrize("shapes", [(40, 30), (8, 30), (8, 9)])
def test_the_frechet_distance_equals_the_textbook_formula(shapes: tuple[int, int]) -> None:
    width = 12
    a, b = features(0, shapes[0], width), features(1, shapes[1], width, shift=0.3)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(scipy.linalg.sqrtm(ca) @ cb @ scipy.linalg.sqrtm(ca))
    plain = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * np.real(root))
    # sqrtm of a covariance without full rank is itself only good to about 1e-7
    score = frechet_distance(a, b, name="fid")
    assert score.value == pytest.approx(plain, rel=1e-9 if min(shapes) > width else 1e-5)
    assert (score.name, score.low, score.high, score.count) == ("fid", None, None, min(shapes))


@pytest.mark.parametrize("count", [5, 50])
def test_the_frechet_distance_is_a_distance(count: int) -> None:
    a, b = features(0, count, 10), features(1, count, 10)
    scale = np.trace(np.cov(a, rowvar=False))
    assert frechet_distance(a, a).value <= 1e-12 * scale
    assert frechet_distance(a, b).value == pytest.approx(frechet_distance(b, a).value, rel=1e-10)
    moved = frechet_distance(a, a + 2.0).value
    assert moved == pytest.approx(10 * 4.0, rel=1e-10)
    turn = scipy.linalg.qr(np.random.default_rng(2).normal(size=(10, 10)))[0]
    assert frechet_distance(a @ turn, b @ turn).value == pytest.approx(frechet_distance(a, b).value, rel=1e-9)


def test_the_frechet_distance_of_one_feature_is_known_in_closed_form() -> None:
    a, b = features(0, 60, 1), features(1, 50, 1, shift=1.0)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b).value == pytest.approx(expected, rel=1e-10)


def naive_discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(sum(p * q for p, q in zip(x, y, strict=True))) / len(x) + 1) ** 3

    inside = [
        sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (a, b)
    ]
    return sum(inside) - 2 * sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))


def test_the_kernel_distance_equals_a_double_loop() -> None:
    a, b = features(0, 9, 4), features(1, 9, 4)
    assert kernel_distance(a, b).value == pytest.approx(naive_discrepancy(a, b), rel=1e-10)


def test_the_kernel_distance_compares_no_pictures_of_one_prompt() -> None:
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(12), 4)
    a = rng.normal(size=(12, 5))[prompts] + 0.01 * rng.normal(size=(48, 5))  # four near copies of each of twelve
    assert kernel_distance(a, a, groups=(prompts, prompts)).value == pytest.approx(0, abs=1e-9)
    b = a + 0.01 * rng.normal(size=a.shape)
    paired, grouped = kernel_distance(a, b).value, kernel_distance(a, b, groups=(prompts, prompts)).value
    assert abs(grouped) < 0.2 * abs(paired), "copies of one prompt no longer pull the estimate down"
    assert kernel_distance(a, a + 1, groups=(prompts, prompts)).value > 1
    pairs = [(i, j) for i in range(48) for j in range(48) if prompts[i] != prompts[j]]
    kernel = lambda x, y: np.mean([(x[i] @ y[j] / 5 + 1) ** 3 for i, j in pairs])  # noqa: E731
    naive = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
    assert grouped == pytest.approx(naive, rel=1e-9)
    with pytest.raises(ValueError, match="at least 2 groups"):
        kernel_distance(a, b, groups=(np.zeros(48), np.zeros(48)))
    with pytest.raises(ValueError, match="must name every picture"):
        kernel_distance(a, b, groups=(prompts[:3], prompts))


def test_the_kernel_distance_averages_over_its_subsets() -> None:
    a, b = features(0, 9, 3) / 3, features(1, 14, 3) / 3
    score = kernel_distance(a, b, subsets=50, subset_size=5, seed=4, name="kid")
    rng = np.random.default_rng(4)
    naive = [
        naive_discrepancy(a[rng.choice(9, 5, replace=False)], b[rng.choice(14, 5, replace=False)]) for _ in range(50)
    ]
    assert score.value == pytest.approx(np.mean(naive), rel=1e-9)
    assert (score.name, score.count, score.low) == ("kid", 9, None)


def test_the_kernel_distance_is_unbiased_where_the_frechet_distance_is_not() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(20, 5)), rng.normal(size=(20, 5))) for _ in range(200)]
    kernel = np.array([kernel_distance(a, b).value for a, b in pairs])
    assert abs(kernel.mean()) <= 4 * kernel.std() / np.sqrt(200)
    assert np.mean([frechet_distance(a, b).value for a, b in pairs]) > 0.5


def test_the_clip_score_is_the_models_own_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(6, 8, generator=generator), torch.randn(6, 8, generator=generator)
    scale = torch.nn.Parameter(torch.tensor(100.0).log())
    unit = torch.nn.functional.normalize
    logits = scale.exp() * unit(texts.double(), dim=-1) @ unit(images.double(), dim=-1).T
    score = clip_score(images, texts, scale)
    assert score.value == pytest.approx(float(logits.diagonal().mean().detach()), rel=1e-6)
    assert (score.unit, score.count) == ("points", 6)
    assert clip_score(images.bfloat16(), images.bfloat16() * 2, scale).value == pytest.approx(100.0, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: accuracy([], []), "accuracy needs at least one picture"),
        (lambda: accuracy([1], []), "must pair up, got 1 and 0"),
        (lambda: h0([], [True]), "erased_right needs at least one picture"),
        (lambda: h0([True], []), "kept_right needs at least one picture"),
        (lambda: h0([True], [0.4]), "kept_right must hold yes and no, got 0.4"),
        (lambda: harmonic(3.7, 0.9), "erased_accuracy must be a share from 0 to 1, got 3.7"),
        (lambda: harmonic(0.1, float("nan")), "kept_accuracy must be a share"),
        (lambda: clip_score(np.zeros((0, 4)), np.zeros((0, 4)), 1.0), "image_features needs at least 1 picture"),
        (lambda: clip_score(np.ones((2, 4)), np.ones((3, 4)), 1.0), "must pair up"),
        (lambda: clip_score(np.ones((2, 4)), np.ones((2, 4)), 100.0), "before exp"),
        (lambda: clip_score(np.ones((2, 4)), np.zeros((2, 4)), 1.0), "row 0 is all zeros"),
        (
            lambda: frechet_distance(np.ones((1, 4)), np.ones((2, 4))),
            r"features_a needs at least 2 picture\(s\), got 1",
        ),
        (lambda: frechet_distance(np.ones((2, 4)), []), r"features_b needs at least 2 picture\(s\), got 0"),
        (lambda: frechet_distance(np.ones((2, 4)), np.ones((2, 5))), "widths 4 and 5"),
        (lambda: frechet_distance(np.ones((2, 4)), np.full((2, 4), np.nan)), "features_b must be finite, row 0"),
        (lambda: kernel_distance(np.ones((2, 4, 1)), np.ones((2, 4))), "features_a must be"),
        (lambda: kernel_distance(np.ones((2, 4)), np.ones((2, 4)), subsets=0), "subsets must be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_said(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def peak_bytes(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_the_memory_of_distances_does_not_grow_with_the_pictures(distance, tmp_path) -> None:
    width, peaks = 32, []
    for count in (2_000, 20_000):
        mapped = []
        for name in "ab":
            file = np.memmap(tmp_path / f"{name}{count}", np.float32, "w+", shape=(count, width))
            file[:] = np.random.default_rng(ord(name)).normal(size=(count, width))
            mapped.append(file)
        few = {"subsets": 3, "subset_size": 500} if distance is kernel_distance else {}
        peaks.append(peak_bytes(lambda: distance(*mapped, **few)))  # noqa: B023
    # numbers of groups, and the shuffling of a subset, take some 8-byte numbers a picture; features would take 32
    assert peaks[1] - peaks[0] < 18_000 * 8 * (12 if distance is kernel_distance else 1), peaks


def test_a_mapped_matrix_gives_the_distances_of_one_in_memory(tmp_path) -> None:
    a, b = features(0, 1300, 5).astype(np.float32), features(1, 900, 5).astype(np.float32)
    mapped = []
    for name, rows in (("a", a), ("b", b)):
        rows.tofile(tmp_path / name)
        mapped.append(np.memmap(tmp_path / name, np.float32, "r").reshape(-1, 5))
    for distance in (frechet_distance, partial(kernel_distance, subsets=3)):
        assert distance(*mapped) == distance(a, b)

"""A mean over training seeds claims no more of the prompts than one seed does."""

import numpy as np
import pytest

from cpe.metrics.score import Score, mean_score
from cpe.metrics.seeds import mean_over_seeds


def test_seeds_that_agree_have_the_interval_of_one() -> None:
    one = Score("accuracy", 0.2, 0.1, 0.4, 60, "share")
    assert mean_over_seeds([one] * 3).value == pytest.approx(0.2)
    assert mean_over_seeds([one] * 3).low == pytest.approx(0.1)
    assert mean_over_seeds([one] * 3).high == pytest.approx(0.4)
    assert mean_over_seeds([one] * 3).count == 60


def test_a_score_without_an_interval_leaves_the_mean_without_one() -> None:
    scores = [Score("fid", 1.0, None, None, 9, "distance"), Score("fid", 3.0, 2.0, 4.0, 9, "distance")]
    mean = mean_over_seeds(scores)
    assert (mean.value, mean.low, mean.high) == (2.0, None, None)


def test_no_score_has_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one score"):
        mean_over_seeds([])


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_the_mean_is_covered_as_often_as_one_seed_however_much_prompts_err_alike(shared: float) -> None:
    """Means of 40 values around 0, in three seeds whose errors are shared in part."""
    rng, covered = np.random.default_rng(0), {"one": 0, "mean": 0}
    for _ in range(100):
        common = rng.normal(size=40)
        seeds = [shared * common + (1 - shared**2) ** 0.5 * rng.normal(size=40) for _ in range(3)]
        scores = [mean_score("moved", values, unit="distance") for values in seeds]
        for name, score in (("one", scores[0]), ("mean", mean_over_seeds(scores))):
            assert score.low is not None
            assert score.high is not None
            covered[name] += score.low <= 0 <= score.high
    assert covered["mean"] >= covered["one"] >= 85

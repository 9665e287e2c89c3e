"""A score over several training seeds that were measured on the same prompts."""

from collections.abc import Sequence

from cpe.metrics.score import Score


def mean_over_seeds(scores: Sequence[Score]) -> Score:
    """Returns the mean of one score over training seeds, with an interval that more seeds do not narrow.

    Its ends are the means of the scores' own: as if the prompts erred alike in every seed. The prompts are the same, so
    the scores go together by an unknown amount, and the deviation of a mean is never more than the mean of the
    deviations (Minkowski's inequality). What it covers is the choice of prompts; how much training seeds differ shows
    in the scores themselves.

    Args:
        scores: the same measure of the same pictures, one a training seed.

    Returns:
        The score; its count is the pictures of one seed.

    Raises:
        ValueError: there is none.
    """
    if not scores:
        raise ValueError("a mean over training seeds needs at least one score, got none; measure one first")
    lows, highs = [each.low for each in scores], [each.high for each in scores]
    known = None not in (*lows, *highs)

    def mean(values: Sequence[float | None]) -> float:
        return sum(value for value in values if value is not None) / len(values)

    return Score(
        scores[0].name,
        mean([each.value for each in scores]),
        mean(lows) if known else None,
        mean(highs) if known else None,
        scores[0].count,
        scores[0].unit,
    )

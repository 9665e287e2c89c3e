"""A measure of your own, with an observer of your own: how red pictures are. Figures, tables and bars follow.

    python examples/own_metric.py lists/emoji.yaml

A row names it; in a package of yours the same row goes where the process starts.
"""

import sys

import numpy as np

from cpe.metrics.base import Metric
from cpe.metrics.score import mean_score
from cpe.metrics.table import METRICS
from cpe.observers.base import Observer
from tasks.evaluation.observers import OBSERVERS


class Redness(Observer):
    """Looks how red a picture is; `identity` changes whenever its values would."""

    name, identity = "redness", "redness 1"

    def look(self, pictures, prompts):
        """Returns red (P,), the mean of the red channel, 0 to 1."""
        return {"red": np.array([np.asarray(one)[..., 0].mean() / 255 for one in pictures])}


REDNESS = Metric(
    name="redness",
    label="Redness",
    unit="share",
    needs=("red",),
    score=lambda values, clusters: [mean_score("redness", values["red"], unit="mean share", clusters=clusters)],
)


def main(path: str) -> list[dict]:
    """Erases a list, and returns the figures that are about redness."""
    METRICS["redness"] = "own_metric:REDNESS"
    OBSERVERS["redness"] = lambda plan, places: Redness()
    from flows.erase_and_evaluate import erase_and_evaluate

    results = erase_and_evaluate(path)
    found = [figure for figure in results["figures"] if figure["label"].startswith("Redness")]
    for figure in found:
        print(f"{figure['label']}: {figure['before']:.3f} before, {figure['after']:.3f} after")
    return found


if __name__ == "__main__":
    main(sys.argv[1])

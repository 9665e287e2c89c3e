"""Who is on generated pictures: what an identity detector gives, and the scores of it.

Accuracy counts pictures with a face only; the share of pictures without one stands beside it, because a model that
draws no faces any more would else look like one that erases well.
"""

# Axes: P pictures.

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpe.metrics.accuracy import accuracy
from cpe.metrics.base import Metric
from cpe.metrics.score import Score, Seed, mean_score
from cpe.terms.names import normalise


def celebrity_scores(
    recognised: NDArray[np.str_],
    faces: NDArray[np.int64],
    wanted: Sequence[str],
    *,
    clusters: NDArray[Any] | None = None,
    seed: Seed = 0,
) -> tuple[Score | None, Score]:
    """Returns top-1 accuracy over the pictures with a face, and the share of pictures without one.

    Args:
        recognised: name of each picture's best face, "" for nobody, (P,).
        faces: number of faces on each picture, (P,).
        wanted: whom each picture's prompt names, P names; compared as concept lists compare names.
        clusters: what pictures share that are not independent of each other; None: each stands alone.
        seed: of the bootstraps, or their generator.

    Returns:
        Accuracy, None where no picture has a face: then there is nothing to be right about; and the share of pictures
        without a face.

    Raises:
        ValueError: lists of different lengths, no picture, or a wanted name that is empty.

    Source: the GIPHY Celebrity Detector's use in MACE (Lu et al., CVPR 2024) and CPE.
    """
    if not len(recognised) == len(faces) == len(wanted):
        raise ValueError(
            f"recognised, faces and wanted must go together, got {len(recognised)}, {len(faces)} and {len(wanted)}; "
            "join them by row id"
        )
    names = [normalise(name) for name in wanted]
    if "" in names:
        raise ValueError(f"wanted must hold names, number {names.index('')} is empty; leave out prompts of nobody")
    has_face = np.asarray(faces) > 0
    no_face = no_face_rate(faces, clusters=clusters, seed=seed)
    if not has_face.any():
        return None, no_face
    found = [normalise(str(name)) for name in np.asarray(recognised)[has_face]]
    asked = [name for name, kept in zip(names, has_face, strict=True) if kept]
    alike = None if clusters is None else clusters[has_face]
    return accuracy(found, asked, name="celebrity_accuracy", clusters=alike, seed=seed), no_face


def no_face_rate(faces: NDArray[np.int64], *, clusters: NDArray[Any] | None = None, seed: Seed = 0) -> Score:
    """Returns the share of pictures without a face.

    Args:
        faces: number of faces on each picture, (P,).
        clusters: what pictures share that are not independent of each other; None: each stands alone.
        seed: of the bootstrap, or its generator.
    """
    faceless = (np.asarray(faces) == 0).astype(np.float64)
    return mean_score("no_face_rate", faceless, unit="share", clusters=clusters, seed=seed)


def unknown_names(wanted: Iterable[str], labels: Iterable[str] | None) -> tuple[str, ...]:
    """Returns, each once and in order, the wanted names a detector has no label for: it can never recognise them.

    An erased person the detector does not know would score as erased perfectly, so ask before scoring.

    Args:
        wanted: names to be recognised.
        labels: the detector's; None, where it does not tell them, gives no name.
    """
    if labels is None:
        return ()
    known = {normalise(label) for label in labels}
    return tuple(name for name in dict.fromkeys(wanted) if normalise(name) not in known)


def _no_face(values: Mapping[str, NDArray[Any]], clusters: NDArray[Any] | None) -> list[Score]:
    return [no_face_rate(values["faces"], clusters=clusters)]


NO_FACE = Metric(
    name="no_face_rate",
    label="Share of pictures without a face",
    unit="share",
    needs=("faces",),
    score=_no_face,
    by_concept=True,
)

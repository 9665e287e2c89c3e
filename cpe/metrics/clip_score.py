"""CLIP score: how well pictures agree with their prompts."""

# Axes: N pictures, D features.

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray

from cpe.metrics.base import Metric
from cpe.metrics.score import Features, Score, Seed, as_matrix, mean_score

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_LOGIT_SCALE = 10.0


def clip_score(
    image_features: Features,
    text_features: Features,
    logit_scale: Union[float, "Tensor"],
    *,
    name: str = "clip_score_points",
    clusters: NDArray[Any] | None = None,
    seed: Seed = 0,
) -> Score:
    """Returns the mean image-text logit of pictures and their own prompts, in points.

    A picture's points are exp(logit_scale) · cos(image, text): what `CLIPModel` returns as the diagonal of
    `logits_per_image`. OpenAI's models have exp(logit_scale) = 100, where this is 100 times the cosine;
    negative cosines are counted as they are.

    Args:
        image_features: projected image features, (N, D), of any length.
        text_features: projected text features of the same rows, (N, D).
        logit_scale: `CLIPModel.logit_scale`, before exp.
        name: of the score.
        clusters: what pictures share that are not independent of each other; None: each stands alone.
        seed: of the bootstrap over pictures, or its generator.

    Raises:
        ValueError: no pictures, shapes that do not pair up, features of length 0, or a scale after exp.
    """
    images, texts = as_matrix(image_features, "image_features"), as_matrix(text_features, "text_features")
    if images.shape != texts.shape:
        raise ValueError(
            f"image_features and text_features must pair up, got {images.shape} and {texts.shape}; join by row id"
        )
    scale = float(logit_scale if isinstance(logit_scale, (int, float)) else logit_scale.detach())
    if not scale <= LARGEST_LOGIT_SCALE:
        raise ValueError(
            f"logit_scale must be the model's parameter before exp, such as 4.6052, got {scale}; pass its log"
        )
    lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)  # (N,)
    if not lengths.all():
        raise ValueError(
            f"features must have a length, row {int(np.flatnonzero(lengths == 0)[0])} is all zeros; embed it again"
        )
    points = math.exp(scale) * (images * texts).sum(axis=1) / lengths  # (N,)
    return mean_score(name, points, unit="points", clusters=clusters, seed=seed)


def _points(values: Mapping[str, NDArray[Any]], clusters: NDArray[Any] | None) -> list[Score]:
    scale = float(values["logit_scale"])
    return [clip_score(values["clip_image"], values["clip_text"], scale, name="clip_score", clusters=clusters)]


CLIP_SCORE = Metric(
    name="clip_score",
    label="CLIP score ({clip_model})",
    unit="points",
    needs=("clip_image", "clip_text", "logit_scale"),
    score=_points,
    higher=("kept",),
    by_concept=True,
)

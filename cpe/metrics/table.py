"""All metrics that score pictures one phase at a time, by name: a new one is a file and a row."""

from importlib import import_module

from cpe.metrics.base import Metric

METRICS = {
    "nudity_detections": "cpe.metrics.nudity:DETECTIONS",
    "nudity_pictures": "cpe.metrics.nudity:PICTURES",
    "no_face_rate": "cpe.metrics.people:NO_FACE",
    "clip_score": "cpe.metrics.clip_score:CLIP_SCORE",
    "kept_distance": "cpe.metrics.kept:DISTANCE",
    "kept_psnr": "cpe.metrics.kept:PSNR",
}


def metrics() -> list[Metric]:
    """Returns all of them, in the order in which figures show them."""
    found = []
    for where in METRICS.values():
        module, _, attribute = where.partition(":")
        metric: Metric = getattr(import_module(module), attribute)
        found.append(metric)
    return found

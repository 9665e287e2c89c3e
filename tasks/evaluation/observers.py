"""Which observers a list's pictures need; a new one is a row of `OBSERVERS`.

Those that hold nothing but memory are opened once a process, however often they are asked for.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from cpe.observers.base import Missing, Observer
from cpe.terms.domains import CLASSIFIER, NUDITY, PEOPLE, domain_of
from tasks.here.models import files_at
from tasks.here.places import Places
from tasks.plan import Plan


def _needed(plan: Plan) -> set[str]:
    return {domain_of(each.domain).observer for each in plan.sets}


def _clip(plan: Plan, places: Places) -> Observer:
    if plan.profile.clip_model == "embedded":
        from cpe.embedded.observers import EmbeddedClip

        return _opened(EmbeddedClip)
    from cpe.observers.clip import ClipObserver

    model = plan.profile.clip_model
    return _opened(ClipObserver.open, model, device=places.device_name(), files=files_at(model))


def _classifier(plan: Plan, places: Places) -> Observer | None:
    if CLASSIFIER not in _needed(plan) and plan.profile.features != "embedded":
        return None
    from cpe.embedded.observers import EmbeddedClassifier

    return _opened(EmbeddedClassifier)


def _inception(plan: Plan, places: Places) -> Observer | None:
    if plan.profile.features != "inception":
        return None
    from cpe.observers.inception import InceptionObserver

    folder = places.data / "inception"
    return _opened(InceptionObserver.open, folder, device=places.device_name(), files=files_at(folder))


def _people(plan: Plan, places: Places) -> Observer | None:
    if PEOPLE not in _needed(plan):
        return None
    if plan.profile.features == "embedded":
        from cpe.embedded.observers import EmbeddedPeople

        return _opened(EmbeddedPeople)
    if places.identity_command:
        from cpe.observers.people_program import ProgramObserver

        return ProgramObserver.open(places.identity_command)
    from cpe.observers.faces import FaceObserver

    return FaceObserver.open(places.data / "faces", cache=places.work / "faces")


def _nudity(plan: Plan, places: Places) -> Observer | None:
    if NUDITY not in _needed(plan):
        return None
    from cpe.observers.nudity import NudityObserver

    profile = plan.profile
    return _opened(NudityObserver.open, threshold=profile.nudity_threshold, classes=tuple(profile.nudity_classes))


@lru_cache(maxsize=8)
def _opened(
    make: Callable[..., Observer], *given: Hashable, files: tuple[Any, ...] = (), **options: Hashable
) -> Observer:
    """Returns an observer, opened once for as long as its files are the same."""
    return make(*given, **options)


OBSERVERS: dict[str, Callable[[Plan, Places], Observer | None]] = {  # None: the list's pictures do not need it
    "clip": _clip,
    CLASSIFIER: _classifier,
    "inception": _inception,
    PEOPLE: _people,
    NUDITY: _nudity,
}


@contextmanager
def open_observers(plan: Plan, places: Places) -> Iterator[tuple[dict[str, Observer], list[str]]]:
    """Yields the observers that the list's sets need and can have, and a line for each that is missing."""
    import torch

    torch.set_num_threads(places.threads)
    opened: dict[str, Observer] = {}
    holes = []
    try:
        for name, make in OBSERVERS.items():
            try:
                if (observer := make(plan, places)) is not None:
                    opened[name] = observer
            except Missing as missing:
                holes.append(f"Not measured: {name}. {missing}")
        if PEOPLE in opened:
            holes += [*getattr(opened[PEOPLE], "notes", ()), *_strangers(plan, opened[PEOPLE])]
        yield opened, holes
    finally:
        for observer in opened.values():
            observer.close()


def _strangers(plan: Plan, detector: Observer) -> list[str]:
    """Returns a line about the people whom the detector can never recognise: they would pass for erased."""
    from cpe.metrics.people import unknown_names

    people = [name for each in plan.sets if domain_of(each.domain).by_face for name in each.concepts]
    unknown = unknown_names(people, getattr(detector, "labels", None))
    if not unknown:
        return []
    return [f"The celebrity detector has no label for {', '.join(unknown)}: they can only count as not recognised."]

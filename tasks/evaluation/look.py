"""What observers see in the pictures: shard by shard, each looked at once and stored."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifacts.hashing import content_hash
from artifacts.stores.store import DamagedError
from cpe.evaluation.pictures import EvaluationSet
from cpe.metrics.pictures import as_rgb
from cpe.observers.base import Missing, Observer
from cpe.terms.domains import CLASSIFIER, IDENTITY, NUDITY, domain_of
from tasks.draw import Shard, artist, draw_shard, file_name, salvage_shard
from tasks.here.places import Places
from tasks.plan import Plan

if TYPE_CHECKING:
    from cpe.metrics.moved import Mover

VALUES, TEXTS = "values.safetensors", "texts.json"


@contextmanager
def open_observers(plan: Plan, places: Places) -> Iterator[tuple[dict[str, Observer], list[str]]]:
    """Yields the observers that the list's sets need and can have, and a line for each that is missing."""
    import torch

    torch.set_num_threads(places.threads)
    profile = plan.profile
    needed = {domain_of(each.domain).observer for each in plan.sets}
    wanted: dict[str, Callable[[], Observer]] = {"clip": lambda: _clip(profile.clip_model, places)}
    if CLASSIFIER in needed or profile.features == "embedded":
        wanted[CLASSIFIER] = _classifier
    if profile.features == "inception":
        wanted["inception"] = lambda: _inception(places)
    if IDENTITY in needed:
        wanted[IDENTITY] = lambda: _identity(places)
    if NUDITY in needed:
        wanted[NUDITY] = lambda: _nudity(plan)
    opened: dict[str, Observer] = {}
    holes = []
    try:
        for name, make in wanted.items():
            try:
                opened[name] = make()
            except Missing as missing:
                holes.append(f"Not measured: {name}. {missing}")
        if IDENTITY in opened:
            holes += [*getattr(opened[IDENTITY], "notes", ()), *_strangers(plan, opened[IDENTITY])]
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


def looks_at(observer: Observer, each: EvaluationSet, plan: Plan) -> bool:
    """Whether an observer has something to see in a set."""
    mine, own = domain_of(each.domain), domain_of(plan.concepts.domain)
    if observer.name not in (IDENTITY, NUDITY):
        return True
    return mine.observer == observer.name or (own.everywhere and own.observer == observer.name)


def observation_key(shard: Shard, observer: Observer) -> str:
    """Returns where the store holds what the observer saw in a shard."""
    return f"observations/{content_hash([shard.address, observer.name, observer.identity])[:24]}"


def observation_keys(plan: Plan, shard: Shard, observers: Mapping[str, Observer]) -> list[str]:
    """Returns where the store holds all that is to be seen in a shard."""
    return [observation_key(shard, each) for each in observers.values() if looks_at(each, shard.of, plan)]


def observe(
    places: Places, plan: Plan, bundle: str | None, shard: Shard, observers: Mapping[str, Observer]
) -> dict[str, NDArray]:
    """Returns everything that is seen in a shard's pictures by name, (P, …); what the store holds is not made again."""
    seen: dict[str, NDArray] = {}
    pictures: list[Image.Image] = []
    for observer in observers.values():
        if not looks_at(observer, shard.of, plan):
            continue
        key = observation_key(shard, observer)
        if not places.holds(key):
            with places.locked(key.replace("/", "-")):
                if not places.holds(key):
                    if not pictures:
                        folder = pictures_folder(places, plan, bundle, shard)
                        pictures = [read_picture(folder / file_name(index)) for index in range(len(shard.rows))]
                    values = observer.look(pictures, [row.prompt for row in shard.rows])
                    store_values(places, key, shard, observer, values)
        seen |= load_values(places.fetched(key))
    return seen


def pictures_folder(places: Places, plan: Plan, bundle: str | None, shard: Shard) -> Path:
    """Returns a local, verified copy of a shard; pictures that are damaged in the store are drawn again."""
    try:
        return places.fetched(shard.key)
    except DamagedError:
        salvage_shard(places, shard)
        with artist(places, plan, bundle) as pipe:
            draw_shard(places, plan, bundle, shard, pipe)
        return places.fetched(shard.key)


def store_values(
    places: Places, key: str, shard: Shard, observer: "Observer | Mover", values: Mapping[str, NDArray]
) -> None:
    """Stores what was seen in a shard's pictures, (P, …) by name."""
    from safetensors.numpy import save_file

    for name, value in values.items():
        if len(value) != len(shard.rows):
            raise ValueError(f"{observer.name} gave {len(value)} values {name!r} for {len(shard.rows)} pictures")
    texts = {name: value.tolist() for name, value in values.items() if value.dtype.kind == "U"}
    numbers = {name: np.ascontiguousarray(value) for name, value in values.items() if name not in texts}
    with places.scratch() as folder:
        save_file(numbers, folder / VALUES)
        (folder / TEXTS).write_text(json.dumps(texts, ensure_ascii=False))
        manifest = {"format": 1, "shard": shard.address, "observer": observer.name, "identity": observer.identity}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
        places.store().put(key, folder)


def load_values(folder: Path) -> dict[str, NDArray]:
    """Returns what was seen in a shard's pictures, (P, …) by name."""
    from safetensors.numpy import load_file

    texts = json.loads((folder / TEXTS).read_text())
    return load_file(folder / VALUES) | {name: np.array(value, dtype=np.str_) for name, value in texts.items()}


def read_picture(path: Path | IO[bytes]) -> Image.Image:
    """Returns a picture with its file closed again; an evaluation has more pictures than a process may open files."""
    with Image.open(path) as picture:
        return as_rgb(picture)


def _clip(model: str, places: Places) -> Observer:
    if model == "embedded":
        from cpe.embedded.observers import EmbeddedClip

        return EmbeddedClip()
    from cpe.observers.clip import ClipObserver

    return ClipObserver.open(model, device=places.device_name())


def _classifier() -> Observer:
    from cpe.embedded.observers import EmbeddedClassifier

    return EmbeddedClassifier()


def _inception(places: Places) -> Observer:
    from cpe.observers.inception import InceptionObserver

    return InceptionObserver.open(places.data / "inception", device=places.device_name())


def _identity(places: Places) -> Observer:
    if places.identity_command:
        from cpe.observers.people_program import ProgramObserver

        return ProgramObserver.open(places.identity_command)
    from cpe.observers.faces import FaceObserver

    return FaceObserver.open(places.data / "faces", cache=places.work / "faces")


def _nudity(plan: Plan) -> Observer:
    from cpe.observers.nudity import NudityObserver

    return NudityObserver.open(threshold=plan.profile.nudity_threshold, classes=plan.profile.nudity_classes)

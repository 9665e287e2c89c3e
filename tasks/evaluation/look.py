"""What observers see in the pictures: shard by shard, each looked at once and stored."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifacts.hashing import content_hash
from artifacts.stores.store import DamagedError
from cpe.evaluation.pictures import EvaluationSet
from cpe.metrics.pictures import as_rgb
from cpe.observers.base import Observer
from cpe.terms.domains import NUDITY, PEOPLE, domain_of
from tasks.draw import Shard, artist, draw_shard, file_name, salvage_shard
from tasks.here.places import Places
from tasks.plan import Plan

if TYPE_CHECKING:
    from cpe.metrics.moved import Mover

VALUES, TEXTS = "values.safetensors", "texts.json"


def looks_at(observer: Observer, each: EvaluationSet, plan: Plan) -> bool:
    """Whether an observer has something to see in a set."""
    mine, own = domain_of(each.domain), domain_of(plan.concepts.domain)
    if observer.name not in (PEOPLE, NUDITY):
        return True
    return mine.observer == observer.name or (own.everywhere and own.observer == observer.name)


def observation_key(shard: Shard, observer: Observer) -> str:
    """Returns where the store holds what the observer saw in a shard."""
    return f"observations/{content_hash([shard.address, observer.name, observer.identity])[:24]}"


def observation_keys(plan: Plan, shard: Shard, observers: Mapping[str, Observer]) -> list[str]:
    """Returns where the store holds all that is to be seen in a shard."""
    return [observation_key(shard, each) for each in observers.values() if looks_at(each, shard.of, plan)]


def look_at(places: Places, plan: Plan, bundle: str | None, shard: Shard, observers: Mapping[str, Observer]) -> None:
    """Stores everything that is to be seen in a shard's pictures; what the store holds whole is not made again."""
    pictures: list[Image.Image] = []
    for observer in observers.values():
        key = observation_key(shard, observer)
        if not looks_at(observer, shard.of, plan) or places.holds(key):
            continue
        with places.locked(key.replace("/", "-")):
            if not places.holds(key):
                if not pictures:
                    folder = pictures_folder(places, plan, bundle, shard)
                    pictures = [read_picture(folder / file_name(index)) for index in range(len(shard.rows))]
                values = observer.look(pictures, [row.prompt for row in shard.rows])
                store_values(places, key, shard, observer, values)


def seen_in(places: Places, plan: Plan, shard: Shard, observers: Mapping[str, Observer]) -> dict[str, NDArray]:
    """Returns everything that was seen in a shard's pictures by name, (P, …).

    Raises:
        StoreError: somebody has not looked yet, or what was stored is damaged.
    """
    seen: dict[str, NDArray] = {}
    for key in observation_keys(plan, shard, observers):
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

"""How far kept pictures moved: each beside the untouched one of the same prompt and seed, looked at once and stored."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from artifacts.hashing import content_hash
from cpe.evaluation.scoring import PHASES, SetSeen
from cpe.observers.base import Observer
from tasks.draw import Shard, file_name
from tasks.evaluation.look import load_values, pictures_folder, read_picture, store_values
from tasks.here.places import Places
from tasks.plan import Plan

WORST = 12  # pictures named and shown


def pairs(drawn: Mapping[str, Sequence[Shard]]) -> Iterator[tuple[Shard, Shard]]:
    """Yields the shards of kept pictures before and after erasing, which hold the same rows."""
    for before, after in zip(*(drawn[phase] for phase in PHASES), strict=True):
        if before.of.role == "kept":
            yield before, after


def moved_key(before: Shard, after: Shard, observers: Mapping[str, Observer]) -> str | None:
    """Returns where the store holds how far a shard's pictures moved; None where no CLIP model is here to say so."""
    clip: Any = observers.get("clip")
    if clip is None:
        return None
    from cpe.metrics.moved import Mover

    return f"observations/{content_hash([before.address, after.address, Mover.name, Mover(clip).identity])[:24]}"


def look_at_moved(
    places: Places, plan: Plan, bundle: str, before: Shard, after: Shard, observers: Mapping[str, Observer]
) -> None:
    """Stores how far a shard's pictures moved, if the store does not hold that whole."""
    key = moved_key(before, after, observers)
    if key is None or places.holds(key):
        return
    from cpe.metrics.moved import Mover

    clip: Any = observers["clip"]
    with places.locked(key.replace("/", "-")):
        if not places.holds(key):
            folders = pictures_folder(places, plan, None, before), pictures_folder(places, plan, bundle, after)
            pictures = [[read_picture(f / file_name(row)) for row in range(len(after.rows))] for f in folders]
            mover = Mover(clip)
            store_values(places, key, after, mover, mover.compare(*pictures))


def moved_in(places: Places, before: Shard, after: Shard, observers: Mapping[str, Observer]) -> dict[str, NDArray]:
    """Returns how far a shard's pictures moved, (P,) by name; nothing where there was no CLIP model to say so.

    Raises:
        StoreError: somebody has not looked yet, or what was stored is damaged.
    """
    key = moved_key(before, after, observers)
    return {} if key is None else load_values(places.fetched(key))


def moved_most(drawn: Mapping[str, Sequence[Shard]], sets: Sequence[SetSeen]) -> list[dict[str, Any]]:
    """Returns the kept pictures that moved most, the farthest first, and where they lie."""
    by_name = {each.name: each for each in sets}
    found: list[tuple[float, dict[str, Any]]] = []
    taken = dict.fromkeys(by_name, 0)
    for before, after in pairs(drawn):
        seen = by_name[after.of.name].seen["after"]
        if "kept_distance" not in seen:
            return []
        for index, row in enumerate(after.rows):
            place = taken[after.of.name]
            taken[after.of.name] += 1
            distance = float(seen["kept_distance"][place])
            found.append(
                (
                    distance,
                    {
                        "concept": row.concept,
                        "set": after.of.name,
                        "prompt": row.prompt,
                        "seed": row.seed,
                        "distance": distance,
                        "psnr": float(seen["kept_psnr"][place]),
                        "before": before.address,
                        "after": after.address,
                        "path": file_name(index),
                    },
                )
            )
    return [row for _, row in sorted(found, key=lambda each: -each[0])[:WORST]]

"""One stage of a list's work, whole or in parts that several workers share; any part may be done twice."""

import json
from collections.abc import Sequence
from itertools import islice
from typing import Literal, get_args

from artifacts.hashing import content_hash
from tasks.attacks.search import hunts
from tasks.desk.clean import mark_used
from tasks.draw import shards
from tasks.evaluation.look import observation_keys
from tasks.evaluation.moved import moved_key, pairs
from tasks.evaluation.observers import open_observers
from tasks.here.places import Places
from tasks.plan import Plan

Stage = Literal["train", "attack", "draw before", "draw after", "look"]
STAGES = get_args(Stage)


def store_plan(places: Places, plan: Plan) -> str:
    """Stores a plan, so that other workers do the very same work, and returns its address."""
    values = plan.model_dump(mode="json")
    address = content_hash(values)[:24]
    mark_used(places, address)  # first: nothing that the plan needs is cleaned away from now on
    if not places.holds(f"plans/{address}"):
        with places.scratch() as folder:
            (folder / "plan.json").write_text(json.dumps(values))
            (folder / "manifest.json").write_text(json.dumps({"format": 1, "list": plan.concepts.name}))
            places.store().put(f"plans/{address}", folder)
    return address


def pieces(places: Places, plan: Plan, stage: Stage, part: int, parts: int) -> list[str]:
    """Returns the keys under which the store will hold a part's results."""
    if stage == "train":
        return [f"gates/{address}" for address in plan.addresses[part::parts]]
    if stage == "attack":
        return [each.key for each in islice(hunts(plan), part, None, parts)]
    if stage != "look":
        drawn = shards(plan, plan.bundle if stage == "draw after" else None)
        return [shard.key for shard in islice(drawn, part, None, parts)]
    both = (shard for bundle in (None, plan.bundle) for shard in shards(plan, bundle))
    with open_observers(plan, places) as (observers, _):
        seen = [key for shard in islice(both, part, None, parts) for key in observation_keys(plan, shard, observers)]
        both_phases = {"before": list(shards(plan, None)), "after": list(shards(plan, plan.bundle))}
        moved = [moved_key(*pair, observers) for pair in islice(pairs(both_phases), part, None, parts)]
        return seen + [key for key in moved if key is not None]


def left_to_do(places: Places, keys: Sequence[str]) -> int:
    """Returns how many of these the store lacks."""
    store = places.store()
    return sum(not store.has(key) for key in keys)

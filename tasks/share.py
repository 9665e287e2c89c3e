"""One stage of a list's work, whole or in parts that several workers share; any part may be done twice."""

import json
from collections.abc import Sequence
from itertools import islice
from typing import Literal, get_args

from prefect import task

from artifacts.hashing import content_hash
from tasks.attacks.search import hunts, search_texts
from tasks.desk.clean import mark_used, stored_plan
from tasks.draw import draw_pictures, shards
from tasks.embed import encode_concepts
from tasks.evaluation.look import observation_keys
from tasks.evaluation.moved import moved_key, pairs
from tasks.evaluation.observers import open_observers
from tasks.evaluation.score import look_at_pictures
from tasks.here.places import Places
from tasks.plan import Plan
from tasks.train import plan_training, train_gates

Stage = Literal["train", "attack", "draw before", "draw after", "look"]
STAGES = get_args(Stage)


@task
def store_plan(plan: Plan) -> str:
    """Stores a plan, so that other workers do the very same work, and returns its address."""
    places = Places.from_environment()
    values = plan.model_dump(mode="json")
    address = content_hash(values)[:24]
    mark_used(places, address)  # first: nothing that the plan needs is cleaned away from now on
    if not places.holds(f"plans/{address}"):
        with places.scratch() as folder:
            (folder / "plan.json").write_text(json.dumps(values))
            (folder / "manifest.json").write_text(json.dumps({"format": 1, "list": plan.concepts.name}))
            places.store().put(f"plans/{address}", folder)
    return address


@task
def load_plan(address: str) -> Plan:
    """Reads a stored plan; files of prompts are looked for in this machine's own data folder."""
    places = Places.from_environment()
    return stored_plan(places, address)


def do_part(plan: Plan, stage: Stage, part: int, parts: int) -> None:
    """Does one part of a stage; what the store holds already is not made again."""
    if stage == "train":
        groups = plan_training(plan, part, parts)
        for group in groups:
            encode_concepts(plan, group)
        for group in groups:
            train_gates(plan, group)
    elif stage == "attack":
        search_texts(plan, part, parts)
    elif stage == "look":
        look_at_pictures(plan, plan.bundle, part, parts)
    else:
        draw_pictures(plan, plan.bundle if stage == "draw after" else None, part, parts)


def pieces(plan: Plan, stage: Stage, part: int, parts: int) -> list[str]:
    """Returns the keys under which the store will hold a part's results."""
    if stage == "train":
        return [f"gates/{address}" for address in plan.addresses[part::parts]]
    if stage == "attack":
        return [each.key for each in islice(hunts(plan), part, None, parts)]
    if stage != "look":
        drawn = shards(plan, plan.bundle if stage == "draw after" else None)
        return [shard.key for shard in islice(drawn, part, None, parts)]
    both = (shard for bundle in (None, plan.bundle) for shard in shards(plan, bundle))
    with open_observers(plan, Places.from_environment()) as (observers, _):
        seen = [key for shard in islice(both, part, None, parts) for key in observation_keys(plan, shard, observers)]
        both_phases = {"before": list(shards(plan, None)), "after": list(shards(plan, plan.bundle))}
        moved = [moved_key(*pair, observers) for pair in islice(pairs(both_phases), part, None, parts)]
        return seen + [key for key in moved if key is not None]


def left_to_do(keys: Sequence[str]) -> int:
    """Returns how many of these the store lacks."""
    store = Places.from_environment().store()
    return sum(not store.has(key) for key in keys)

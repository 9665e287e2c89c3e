"""Attacks that learn their texts: one search for each concept and start, each stored by what determines it.

What a search found depends on the bundle that it attacks, so that it is searched for anew whenever gates change.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from artifacts.hashing import content_hash
from cpe.attacks.base import Aim, Search, Victim
from cpe.attacks.table import attack_of
from cpe.evaluation.pictures import EvaluationSet
from tasks.here.places import Places
from tasks.here.progress import progress
from tasks.plan import Plan
from tasks.train import gates_of_bundle

if TYPE_CHECKING:
    from torch import Tensor

TIMED = 4  # steps
FOUND, TEXT = "found.safetensors", "text"


@dataclass(frozen=True)
class Hunt:
    """One search: an attack on one concept from one start.

    Attributes:
        attack: its name.
        aim: what it is after.
        address: hash of everything that determines what is found.
    """

    attack: str
    aim: Aim
    address: str

    @property
    def key(self) -> str:
        """Where the store holds what was found."""
        return f"attacks/{self.address}"


def hunt(plan: Plan, attack: str, concept: str, start: int, steps: int) -> Hunt:
    """Returns a search of the plan's own bundle, or of the base model where what erases is not asked."""
    found: Search = attack_of(attack)
    seed = int(content_hash([attack, concept, start])[:12], 16)  # the same against every bundle
    aim = Aim(concept, seed, steps, start, plan.profile.guidance_scale)
    determined_by = {
        "base": plan.fingerprint,
        "bundle": plan.bundle if found.asks_the_erased else None,
        "attack": attack,
        "version": found.version,
        **aim._asdict(),
    }
    return Hunt(attack, aim, content_hash(determined_by)[:24])


def hunts(plan: Plan) -> Iterator[Hunt]:
    """Yields all searches of a plan's evaluation."""
    for each in plan.sets:
        if each.search:
            for concept in each.concepts:
                for start in range(each.starts):
                    yield hunt(plan, each.search, concept, start, each.steps)


def search_texts(places: Places, plan: Plan, part: int = 0, parts: int = 1) -> list[str]:
    """Makes the searches that the store lacks; one that was cut off is made again from its start, with the same end.

    Args:
        places: where what is found is stored.
        plan: the list made ready; its bundle is in the store.
        part: of the searches, from 0: every `parts`-th one.
        parts: how many workers share them.

    Returns:
        The part's addresses.
    """
    mine = list(islice(hunts(plan), part, None, parts))
    todo = [each for each in mine if not places.holds(each.key)]
    if todo:
        from cpe.methods.erased import Erased

        victim = Victim(places.loaded(plan.concepts.base_model), Erased.load(gates_of_bundle(places, plan.bundle)))
        with progress("attacking", len(mine), "search", initial=len(mine) - len(todo)) as done:
            for each in todo:
                _search(places, plan, each, victim)
                done(1, note=f"{each.attack} {each.aim.concept}")
    return [each.address for each in mine]


def _search(places: Places, plan: Plan, each: Hunt, victim: Victim) -> None:
    from safetensors.torch import save_file

    with places.locked(f"attack-{each.address}"):
        if places.holds(each.key):
            return
        attack: Search = attack_of(each.attack)
        started = time.perf_counter()
        found = attack.search(victim, each.aim)
        manifest = {
            "format": 1,
            "attack": attack.name,
            "access": attack.access,
            **each.aim._asdict(),
            "bundle": plan.bundle if attack.asks_the_erased else None,
            "base_model": plan.concepts.base_model,
            "losses": found.losses,
            **({"words": found.words} if found.words else {}),
            "seconds": round(time.perf_counter() - started, 3),
        }
        with places.scratch() as folder:
            save_file({TEXT: found.text.contiguous()}, folder / FOUND)
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
            places.store().put(each.key, folder)


def time_search(pipe: Any, each: EvaluationSet, guidance_scale: float) -> float:
    """Returns the seconds of one search of a set, from a short one through the untouched model; nothing is kept."""

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        aim = Aim("thing", 0, steps, guidance_scale=guidance_scale)
        attack_of(each.search).search(Victim(pipe, Untouched()), aim)
        return time.perf_counter() - started

    once = min(seconds(1), seconds(1))  # the first may make ready what later ones find
    return once + max(0, each.steps - 1) * max(0.0, seconds(1 + TIMED) - once) / TIMED


class Untouched:
    """What erases nothing."""

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[None]:
        """Leaves the pipeline as it is."""
        yield


def found_text(places: Places, each: Hunt) -> "Tensor":
    """Returns what a search found, (T, D) float32.

    Raises:
        StoreError: nobody has searched yet, or what was stored is damaged.
    """
    from safetensors.torch import load_file

    return load_file(places.fetched(each.key) / FOUND)[TEXT]

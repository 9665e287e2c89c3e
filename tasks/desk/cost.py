"""What a list will cost before anything runs: gates, prompts, pictures, disk and time, from rates measured here."""

import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from cpe.terms.profiles import Profile
from tasks.attacks.search import hunts, time_search
from tasks.draw import shards
from tasks.embed import embedding_cache
from tasks.evaluation.observers import open_observers
from tasks.here.places import Places
from tasks.plan import Plan
from tasks.train import GATES_AT_ONCE, missing_gates
from wording.figures import duration, size

TIMED_DENOISING = 4
PATIENCE_S = 10.0  # for drawing a batch as large as a run draws; a slow device times a small one
ENCODED = 16


@dataclass(frozen=True)
class Rates:
    """Seconds of one unit of each kind of work on this device, and bytes of one picture.

    Attributes:
        prompt_s: encoding a prompt.
        prompt_bytes: of its embedding in the cache.
        concept_s: training a concept, as many at once as a run trains.
        picture_s: drawing a picture.
        look_s: measuring a picture, all observers that are here.
        picture_bytes: of a PNG file; early noise packs badly, so it is an upper bound.
        attack_s: a search of each attack that learns its text, through the untouched model, by its name.
    """

    prompt_s: float
    prompt_bytes: int
    concept_s: float
    picture_s: float
    look_s: float
    picture_bytes: int
    attack_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """One kind of work: how much there is in all, how much is still to do, and what that takes."""

    work: str
    total: int
    todo: int
    disk_bytes: int
    seconds: float


def estimate(plan: Plan, rates: Rates, places: Places) -> list[Cost]:
    """Returns what a run of this plan still costs; what the caches and the store hold is not counted."""
    todo = missing_gates(places, plan)
    prompts, needed = (
        {"", *(text for gate in gates for text in plan.lesson(gate).texts)} for gates in (plan.gates, todo)
    )
    cache = embedding_cache(places, plan.text_fingerprint)
    encode = len(cache.missing(list(needed))) if todo else 0
    disk, config = 0, plan.concepts.training_config
    if todo:
        disk = plan.method.size(places.loaded(plan.concepts.base_model), config, len(todo))
    store = places.store()
    costs = [
        Cost("prompts to encode", len(prompts), encode, encode * rates.prompt_bytes, encode * rates.prompt_s),
        Cost("gates to train", len(plan.gates), len(todo), disk, len(todo) * rates.concept_s),
    ]
    searches = list(hunts(plan))
    if searches:
        waiting = [each for each in searches if not store.has(each.key)]
        seconds = sum(rates.attack_s.get(each.attack, 0.0) for each in waiting)
        costs.append(
            Cost(
                "texts that attacks learn", len(searches), len(waiting), len(waiting) * rates.prompt_bytes * 2, seconds
            )
        )
    seen = 0
    for phase, bundle in (("before", None), ("after", plan.bundle)):
        total = missing = 0
        for shard in shards(plan, bundle):
            total += len(shard.rows)
            missing += 0 if store.has(shard.key) else len(shard.rows)
        disk = missing * rates.picture_bytes
        rows = 2 if bundle and plan.drawn_at > 1 >= plan.profile.guidance_scale else 1  # of the network, a picture
        costs.append(Cost(f"pictures {phase} erasing", total, missing, disk, rows * missing * rates.picture_s))
        seen += missing
    costs.append(Cost("pictures to measure", 2 * total, seen, 0, seen * rates.look_s))
    return costs


def measure_rates(plan: Plan, places: Places) -> Rates:
    """Times a little of each kind of work on this device; nothing of it is kept."""
    from cpe.models.text import encode_prompts

    pipe = places.loaded(plan.concepts.base_model)
    texts = [f"a picture of thing {number}" for number in range(ENCODED)]
    encode_prompts(pipe, texts[:1])
    started = time.perf_counter()
    embeddings = encode_prompts(pipe, texts)
    prompt_s = (time.perf_counter() - started) / ENCODED
    count = max(1, min(GATES_AT_ONCE, len(missing_gates(places, plan)) or len(plan.gates)))
    config, cache = plan.concepts.training_config, places.work / "bases"
    concept_s = plan.method.seconds(pipe, embeddings, config, count, cache)
    picture, picture_s = _time_drawing(pipe, plan.profile, texts[0])
    look_s = 0.0
    with open_observers(plan, places) as (observers, _):
        for observer in observers.values():
            observer.look([picture], texts[:1])
            started = time.perf_counter()
            observer.look([picture] * 4, texts[:4])
            look_s += (time.perf_counter() - started) / 4
    packed = io.BytesIO()
    picture.save(packed, format="PNG")
    guidance, size = plan.profile.guidance_scale, len(packed.getvalue())
    searched = {each.search: each for each in plan.sets if each.search}
    attack_s = {name: time_search(pipe, each, guidance) for name, each in searched.items()}
    return Rates(prompt_s, 2 * embeddings[0].numel(), concept_s, picture_s, look_s, size, attack_s)


def _time_drawing(pipe: Any, profile: Profile, prompt: str) -> tuple[Any, float]:
    """Returns a picture of a few steps, and the seconds one of the profile's takes, in batches as a run draws them.

    The first drawing of a process makes ready what later ones find, so that it is not counted.
    """
    import torch

    from cpe.models.drawing import drawn_of, options_of, sampler_of

    options, each = options_of(pipe, profile), len(profile.kept) or 1
    steps = min(profile.steps, TIMED_DENOISING)

    def draw(batch: int) -> tuple[Any, float]:
        ticks: list[float] = []

        def tick(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if pipe.device.type == "cuda":
                torch.cuda.synchronize()
            ticks.append(time.perf_counter())
            return values

        started = time.perf_counter()
        drawn = pipe(
            [prompt] * batch,
            **options,
            num_inference_steps=steps,
            guidance_scale=profile.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in range(batch)],
            callback_on_step_end=tick,
        )
        whole = time.perf_counter() - started
        step_s = median([later - earlier for earlier, later in pairwise(ticks)] or [whole])
        around = max(0.0, whole - step_s * len(ticks))
        return drawn_of(drawn)[0][0], (around + step_s * profile.steps) / (batch * each)

    with sampler_of(pipe, profile):
        draw(1)
        picture, picture_s = draw(1)
        share = (steps + 1) / profile.steps  # of a picture's time that a timed one takes, with what is around the steps
        affordable = int(PATIENCE_S / max(picture_s * share, 1e-6))
        return draw(max(1, min(profile.batch, affordable))) if affordable > 1 else (picture, picture_s)


def as_rows(costs: list[Cost]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yields the costs as a table shows them, with their sum."""
    for cost in costs:
        yield cost.work, f"{cost.total:,}", f"{cost.todo:,}", size(cost.disk_bytes), duration(cost.seconds)
    disk, seconds = sum(cost.disk_bytes for cost in costs), sum(cost.seconds for cost in costs)
    yield "in all", "", "", size(disk), duration(seconds)

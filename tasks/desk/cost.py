"""What a list will cost before anything runs: gates, prompts, pictures, disk and time, from rates measured here."""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from cpe.methods.pinpoint.config import TrainingConfig
from cpe.terms.profiles import Profile
from tasks.draw import shards
from tasks.embed import embedding_cache
from tasks.evaluation.look import open_observers
from tasks.here.places import Places
from tasks.plan import Plan
from tasks.train import GATES_AT_ONCE, missing_gates
from wording.figures import duration

TIMED_STEPS = 6
TIMED_DENOISING = 4
PATIENCE_S = 10.0  # for drawing a batch as large as a run draws; a slow device times a small one
ENCODED = 16


@dataclass(frozen=True)
class Rates:
    """Seconds of one unit of each kind of work on this device, and bytes of one picture.

    Attributes:
        prompt_s: encoding a prompt.
        prompt_bytes: of its embedding in the cache.
        first_step_s: an erasing step of the first stage, a gate.
        later_step_s: an erasing step of a later stage, a gate.
        adversary_step_s: a step of the adversary, a gate.
        picture_s: drawing a picture.
        look_s: measuring a picture, all observers that are here.
        picture_bytes: of a PNG file; early noise packs badly, so it is an upper bound.
    """

    prompt_s: float
    prompt_bytes: int
    first_step_s: float
    later_step_s: float
    adversary_step_s: float
    picture_s: float
    look_s: float
    picture_bytes: int


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
    prompts = {""}
    for gate in plan.gates:
        for texts in gate.prompts(plan.concepts.templates).values():
            prompts.update(texts)
    todo = missing_gates(places, plan)
    needed = {""}
    for gate in todo:
        for texts in gate.prompts(plan.concepts.templates).values():
            needed.update(texts)
    cache = embedding_cache(places, plan.text_fingerprint)
    encode = len(cache.missing(list(needed))) if todo else 0
    config = plan.concepts.training_config
    later = (config.stages - 1) * config.later_steps
    adversary = (config.stages - 1) * config.adversary_steps if config.copies else 0
    gate_s = config.first_steps * rates.first_step_s + later * rates.later_step_s + adversary * rates.adversary_step_s
    store = places.store()
    costs = [
        Cost("prompts to encode", len(prompts), encode, encode * rates.prompt_bytes, encode * rates.prompt_s),
        Cost("gates to train", len(plan.gates), len(todo), len(todo) * _gate_bytes(plan, places), len(todo) * gate_s),
    ]
    seen = 0
    for phase, bundle in (("before", None), ("after", plan.bundle)):
        total = missing = 0
        for shard in shards(plan, bundle):
            total += len(shard.rows)
            missing += 0 if store.has(shard.key) else len(shard.rows)
        disk = missing * rates.picture_bytes
        costs.append(Cost(f"pictures {phase} erasing", total, missing, disk, missing * rates.picture_s))
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
    steps = _time_training(plan, places, pipe, embeddings)
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
    return Rates(prompt_s, 2 * embeddings[0].numel(), *steps, picture_s, look_s, len(packed.getvalue()))


def _time_training(plan: Plan, places: Places, pipe: Any, embeddings: Any) -> tuple[float, float, float]:
    """Returns seconds a gate of a first, a later and an adversary step, as many gates at once as would be trained."""
    from cpe.methods.pinpoint.batch import ConceptTexts
    from cpe.methods.pinpoint.training import train
    from cpe.models.projections import BaseProjections

    count = max(1, min(GATES_AT_ONCE, len(missing_gates(places, plan)) or len(plan.gates)))
    embeddings = embeddings.to(pipe.device)
    base = BaseProjections.of(pipe.unet, tokens=embeddings.shape[1], device=pipe.device, cache=places.work / "bases")
    short = {
        "stages": 2,
        "first_steps": TIMED_STEPS,
        "later_steps": TIMED_STEPS,
        "adversary_steps": TIMED_STEPS,
        "warmup_steps": 0,
        "plateau": 0.0,
    }
    config = TrainingConfig.model_validate({**plan.concepts.training_config.model_dump(), **short})
    concepts = [
        ConceptTexts(str(n), target=embeddings[:8], surrogate=embeddings[8:], anchors=embeddings, seed=n)
        for n in range(count)
    ]
    moments: list[tuple[str, float]] = []

    def watch(record: Any) -> None:
        if pipe.device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        kind = "adversary" if record.phase == "adversary" else "later" if record.stage else "first"
        moments.append((kind, time.perf_counter()))

    train(concepts, base, embeddings[0], config, watch=watch)
    spans: dict[str, list[float]] = {}
    for (before, started), (kind, ended) in pairwise(moments):
        if before == kind:
            spans.setdefault(kind, []).append((ended - started) / count)
    first, later = median(spans["first"]), median(spans["later"])
    return first, later, median(spans.get("adversary", [0.0]))


def _time_drawing(pipe: Any, profile: Profile, prompt: str) -> tuple[Any, float]:
    """Returns a picture of a few steps, and the seconds one of the profile's takes, in batches as a run draws them.

    The first drawing of a process makes ready what later ones find, so that it is not counted.
    """
    import torch

    from cpe.models.drawing import sampler_of

    steps = min(profile.steps, TIMED_DENOISING)

    def draw(batch: int) -> tuple[Any, float]:
        ticks: list[float] = []

        def tick(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if pipe.device.type == "cuda":
                torch.cuda.synchronize()
            ticks.append(time.perf_counter())
            return values

        started = time.perf_counter()
        pictures = pipe(
            [prompt] * batch,
            num_inference_steps=steps,
            guidance_scale=profile.guidance_scale,
            height=profile.height,
            width=profile.width,
            generator=[torch.Generator().manual_seed(seed) for seed in range(batch)],
            callback_on_step_end=tick,
        ).images
        whole = time.perf_counter() - started
        step_s = median([later - earlier for earlier, later in pairwise(ticks)] or [whole])
        around = max(0.0, whole - step_s * len(ticks))
        return pictures[0], (around + step_s * profile.steps) / batch

    with sampler_of(pipe, profile):
        draw(1)
        picture, picture_s = draw(1)
        share = (steps + 1) / profile.steps  # of a picture's time that a timed one takes, with what is around the steps
        affordable = int(PATIENCE_S / max(picture_s * share, 1e-6))
        return draw(max(1, min(profile.batch, affordable))) if affordable > 1 else (picture, picture_s)


def _gate_bytes(plan: Plan, places: Places) -> int:
    """Returns the size of one gate's file, float32."""
    from cpe.models.sites import find_projections

    gate = plan.concepts.training_config.gate
    modules = find_projections(places.loaded(plan.concepts.base_model).unet).values()
    width = next(iter(modules)).weight.shape[1]
    adapters = sum(gate.adapter_rank * (width + module.weight.shape[0]) for module in modules)
    return 4 * (2 * width * gate.gate_rank + width + adapters)


def as_rows(costs: list[Cost]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yields the costs as a table shows them, with their sum."""
    for cost in costs:
        yield cost.work, f"{cost.total:,}", f"{cost.todo:,}", size(cost.disk_bytes), duration(cost.seconds)
    disk, seconds = sum(cost.disk_bytes for cost in costs), sum(cost.seconds for cost in costs)
    yield "in all", "", "", size(disk), duration(seconds)


def size(count: int) -> str:
    """Returns bytes as people read them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

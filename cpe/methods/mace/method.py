"""MACE as one of the ways of erasing: a closed form, adapters a concept, and a closed form that makes one of them."""

# Axes: B prompts, T tokens, D text width, O projection width.

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from cpe.methods.base import IN_WEIGHTS, Method
from cpe.methods.erased import METHOD_KEY, Erased
from cpe.methods.lessons import Bench, Curve, Encoded, Lesson, Piece, Prompt
from cpe.methods.mace.config import PRESETS, MaceConfig

if TYPE_CHECKING:
    from torch import Tensor

    from cpe.methods.mace.closed import Span
    from cpe.methods.mace.training import Adapters, Scene

TIMED = 3  # steps that are taken to time one


class Mace(Method):
    """Mass Concept Erasure (Lu et al., CVPR 2024)."""

    name, title, version = "mace", "MACE edits of the key and value matrices", 1
    settings, presets = MaceConfig, PRESETS
    removal = IN_WEIGHTS
    joint, file_name = True, "edit.safetensors"

    def train(
        self, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: MaceConfig, bench: Bench
    ) -> list[Piece]:
        """Refines the matrices, trains each concept's adapters on them, and fuses all."""
        from cpe.methods.mace.closed import Fusion, fused, refinement
        from cpe.methods.weights import DELTA_PREFIX

        span = spans(lessons, pipe)
        scenes = [scene_of(lesson, span, pipe, config) for lesson in lessons]
        refine = refinement(lessons, texts, span, config)
        adapters = adapters_of(scenes, refine, texts, pipe, config)
        adapters.resume(bench.checkpoint)
        done = bench.begin(len(lessons) * config.steps, adapters.taken)
        trained = adapters.finish(bench.checkpoint, done)
        found = fused(Fusion(lessons, texts, span, config), adapters.watched.untouched, refine, trained)
        concepts = json.dumps([lesson.concept for lesson in lessons])
        return [
            Piece(
                {DELTA_PREFIX + path: delta for path, delta in found.items()},
                {METHOD_KEY: self.name, "concepts": concepts},
                {"losses": _points(adapters.losses, config.steps)},
            )
        ]

    def load(self, paths: Sequence[Path]) -> Erased:
        """Reads one edit; two of them cannot be put on one model, since each was solved alone."""
        from cpe.methods.weights import read_layers

        return read_layers(paths)

    def seconds(self, pipe: Any, text: "Tensor", config: MaceConfig, concepts: int, cache: Path) -> float:
        """Returns what a concept's adapters take, from a few of their steps, and a few steps of drawing."""
        import torch

        from cpe.methods.mace.suppression import drawn
        from cpe.methods.mace.training import Scene

        rows = {str(number): number for number in range(len(text))} | {"": 0}
        lesson = Lesson("", tuple(Prompt(name, name) for name in rows if name), (), (), 0)
        suppressed = {prompt.text: torch.arange(text.shape[1]) > 0 for prompt in lesson.target}
        started = time.perf_counter()
        pictures = drawn(pipe, ["", ""], 0, steps=TIMED, guidance_scale=config.guidance_scale)
        drawing = (time.perf_counter() - started) / (2 * TIMED)
        scene, width = Scene(lesson, lambda: pictures, suppressed), text.shape[-1]
        adapters = adapters_of([scene], torch.eye(width, dtype=torch.float64), Encoded(rows, text), pipe, config)
        spans = []
        for _ in range(TIMED):
            started = time.perf_counter()
            adapters.take_step(scene)
            spans.append(time.perf_counter() - started)
        return config.steps * median(spans) + config.pictures * config.sampling_steps * drawing

    def size(self, pipe: Any, config: MaceConfig, concepts: int) -> int:
        """Returns the bytes of all matrices' changes, float32."""
        from cpe.models.families.table import sites_of
        from cpe.models.sites import widths_of

        return 4 * sum(out * width for out, width in map(widths_of, sites_of(pipe).values()))

    def curves(self, config: Mapping[str, Any], losses: Sequence[Mapping[str, Any]]) -> list[Curve]:
        """Returns the attention that each concept's adapters left, concept after concept."""
        concepts = sorted({point["concept"] for point in losses})
        stages = [[(p["step"], p["loss"]) for p in losses if p["concept"] == concept] for concept in concepts]
        return [Curve("attention", stages)] if losses else []


def adapters_of(
    scenes: "Sequence[Scene]", refine: "Tensor", texts: Encoded, pipe: Any, config: MaceConfig
) -> "Adapters":
    """Returns a training that stands before its first step.

    Args:
        scenes: a concept each.
        refine: G, (D, D) float64.
        texts: the embeddings of their prompts.
        pipe: the base model.
        config: the settings.
    """
    from cpe.methods.checkpoint import hash_of
    from cpe.methods.mace.suppression import Watched
    from cpe.methods.mace.training import Adapters

    watched = Watched(pipe)
    refined = {path: (weight.double() @ refine).float() for path, weight in watched.untouched.items()}
    used = [prompt.text for scene in scenes for prompt in scene.lesson.target]
    identity = {
        **{f"config.{name}": value for name, value in config.model_dump().items()},
        "method": f"{MACE.name} {MACE.version}",
        "concepts": [scene.lesson.concept for scene in scenes],
        "seeds": [scene.lesson.seed for scene in scenes],
        "prompts": used,
        "texts": hash_of(texts.of(used)[:, -1]),  # a text encoder's last token has seen the whole prompt
        "refined": hash_of(*refined.values()),
        "base model": watched.identity,
        "device": str(watched.device.type),
    }
    return Adapters(scenes, texts, watched, refined, config, identity)


def scene_of(lesson: Lesson, span: "Span", pipe: Any, config: MaceConfig) -> "Scene":
    """Returns what a concept's adapters learn on; its pictures are drawn when they are needed."""
    from cpe.methods.mace.suppression import drawn
    from cpe.methods.mace.training import Scene
    from cpe.models.text import token_ids

    ids = token_ids(pipe, [prompt.text for prompt in lesson.target])
    suppressed = {}
    for prompt, own in zip(lesson.target, ids, strict=True):
        first, last = span(prompt)
        tokens = own == pipe.tokenizer.eos_token_id  # padding too, where it is made of ends of text
        tokens[first : last + 1] = True
        suppressed[prompt.text] = tokens
    prompts = [lesson.target[number % len(lesson.target)].text for number in range(config.pictures)]
    steps, scale = config.sampling_steps, config.guidance_scale
    return Scene(lesson, lambda: drawn(pipe, prompts, lesson.seed, steps=steps, guidance_scale=scale), suppressed)


def spans(lessons: Sequence[Lesson], pipe: Any) -> "Span":
    """Returns where names stand in the prompts of lessons: the first and the last token of each."""
    from cpe.methods.uce.edit import name_ends
    from cpe.methods.uce.method import ids_of

    named = [p for lesson in lessons for p in (*lesson.target, *lesson.surrogate, *lesson.anchors)]
    ends = name_ends(dict.fromkeys(named), lambda text: ids_of(pipe.tokenizer, text))
    return {
        prompt: (end + 1 - len(ids_of(pipe.tokenizer, prompt.name)), end) for prompt, end in ends.items()
    }.__getitem__


def _points(losses: Sequence[Sequence[float]], steps: int) -> list[dict[str, Any]]:
    """Returns losses as a manifest holds them, steps counted through all concepts."""
    from cpe.methods.mace.training import curve_steps

    return [
        {"concept": place, "step": place * steps + step, "loss": loss}
        for place, own in enumerate(losses)
        for step, loss in zip(curve_steps(steps), own, strict=True)
    ]


MACE = Mace()

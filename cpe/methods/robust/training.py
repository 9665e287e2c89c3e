"""Trains text maps one concept after another; each from its own seed, so that company changes nothing."""

# Axes: N concepts, D text width.

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpe.methods.checkpoint import Checkpoint, hash_of
from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.robust.config import RobustConfig
from cpe.methods.robust.game import QUERIES_LAST, Game
from cpe.methods.robust.maps import TextMap
from cpe.models.projections import BaseProjections

CURVE_POINTS = 60
CHECKPOINT_EVERY = 100  # steps


@dataclass
class Progress:
    """What is done: maps and curves of the concepts before, and the one in hand."""

    maps: list[TextMap] = field(default_factory=list)
    curves: list[list[dict[str, Any]]] = field(default_factory=lambda: [[]])
    step: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)


def train(
    lessons: Sequence[Lesson],
    texts: Encoded,
    pipe: Any,
    base: BaseProjections,
    config: RobustConfig,
    *,
    begin: Callable[[int, int], Callable[[str], Any]],
    checkpoint: Path,
    every: int = CHECKPOINT_EVERY,
) -> Progress:
    """Trains one map a concept.

    Args:
        lessons: of N concepts.
        texts: the embeddings of their prompts.
        pipe: the base model, which stays as it is.
        base: its projections.
        config: the preset.
        begin: told how many steps there are and how many are done; returns what is called after each.
        checkpoint: file to resume from, written every so many steps.
        every: steps.

    Raises:
        ValueError: the model has several text encoders, or a prompt is cut before its name ends.
        CheckpointError: the checkpoint is damaged or of another training.
    """
    identity = _identity(lessons, texts, pipe, base, config)
    done = _resumed(checkpoint, identity)
    each = config.alone_steps + config.game_steps
    told = begin(each * len(lessons), each * len(done.maps) + done.step)
    for lesson in lessons[len(done.maps) :]:
        game = Game(lesson, texts, pipe, base.gram, config)
        if done.state:
            game.resume(done.step, done.state)
        for step in range(game.step, each):
            losses = game.take()
            if step % max(1, each // CURVE_POINTS) == 0 or step == each - 1:
                done.curves[-1].append({"step": step, **asdict(losses)})
            if _fresh(game.step, config) and game.step < each and game.step % every < QUERIES_LAST:
                done.step, done.state = game.step, game.state()
                _save(checkpoint, identity, done)
            told(f"{lesson.concept}, {'alone' if step < config.alone_steps else 'game'}")
        done.maps.append(game.map())
        done.curves.append([])
        done.step, done.state = 0, {}
        _save(checkpoint, identity, done)
    return done


def _fresh(step: int, config: RobustConfig) -> bool:
    """Whether the next step depends on no queries of earlier ones."""
    return step <= config.alone_steps or (step - config.alone_steps) % QUERIES_LAST == 0


def _save(path: Path, identity: dict[str, Any], done: Progress) -> None:
    tensors = {f"state.{name}": value for name, value in done.state.items()}
    for place, found in enumerate(done.maps):
        tensors |= {f"map.{place}.{name}": value for name, value in found._asdict().items()}
    Checkpoint(identity, {"maps": len(done.maps), "step": done.step, "curves": done.curves}, tensors).write(path)


def _resumed(path: Path, identity: dict[str, Any]) -> Progress:
    found = Checkpoint.read(path, expected=identity)
    if found is None:
        return Progress()
    names = TextMap._fields
    maps = [TextMap(*(found.tensors[f"map.{n}.{name}"] for name in names)) for n in range(found.plain["maps"])]
    state = {n.removeprefix("state."): value for n, value in found.tensors.items() if n.startswith("state.")}
    return Progress(maps, found.plain["curves"], found.plain["step"], state)


def _identity(
    lessons: Sequence[Lesson], texts: Encoded, pipe: Any, base: BaseProjections, config: RobustConfig
) -> dict[str, Any]:
    """Returns what determines a training, as plain values: settings by name, tensors by their hashes."""
    last = texts.table[[texts.rows[text] for lesson in lessons for text in ("", *lesson.texts)], -1]
    return {
        **{f"config.{name}": value for name, value in config.model_dump().items()},
        "concepts": [lesson.concept for lesson in lessons],
        "seeds": [lesson.seed for lesson in lessons],
        "texts": hash_of(last),  # a text encoder's last token has seen the whole prompt
        "base model": hash_of(base.gram, base.weights),
        "text encoder": hash_of(*(value.float() for value in _last_layer(pipe.text_encoder))),
        "device": f"{base.gram.device.type} {base.gram.dtype}",
    }


def _last_layer(encoder: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in list(encoder.parameters())[-4:]]

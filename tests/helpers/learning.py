"""What trainings of the network learn from in tests: two concepts, two templates, embeddings at random."""

from pathlib import Path

import torch

from cpe.methods.lessons import Bench, Encoded, Lesson, Prompt
from helpers.tiny import TEXT_WIDTH

TEMPLATES = ("a {}", "a drawing of a {}")


class KilledError(Exception):
    """Stands for the end of a process between two steps."""


def prompts(*names: str) -> tuple[Prompt, ...]:
    return tuple(Prompt(template.format(name), name) for name in names for template in TEMPLATES)


LESSONS = [
    Lesson("cat", prompts("cat"), prompts("thing"), prompts("dog", "owl"), seed=11),
    Lesson("car", prompts("car"), prompts("thing"), prompts("dog", "bus"), seed=22),
]


def encoded(tokens: int = 7) -> Encoded:
    texts = list(dict.fromkeys(["", *(text for lesson in LESSONS for text in lesson.texts)]))
    table = torch.randn(len(texts), tokens, TEXT_WIDTH, generator=torch.Generator().manual_seed(5)).half()
    return Encoded({text: row for row, text in enumerate(texts)}, table)


def bench(folder: Path, stop: int | None = None, told: list | None = None) -> Bench:
    """Returns a bench whose training is killed after so many steps of its own."""

    def begin(steps, done):
        taken = []
        if told is not None:
            told.append((steps, done))

        def step(said):
            taken.append(said)
            if told is not None:
                told.append(said)
            if len(taken) == stop:
                raise KilledError

        return step

    return Bench(folder / "cache", folder / "checkpoint", begin)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())

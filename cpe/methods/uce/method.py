"""UCE as one of the ways of erasing: all concepts in one edit, no steps, no gates."""

# Axes: B prompts, T tokens, D text width.

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpe.methods.base import IN_WEIGHTS, Method
from cpe.methods.erased import METHOD_KEY, Erased
from cpe.methods.lessons import Bench, Encoded, Lesson, Piece, Prompt
from cpe.methods.uce.config import PRESETS, TokensConfig, UceConfig

if TYPE_CHECKING:
    from torch import Tensor

    from cpe.methods.uce.edit import Place


class Uce(Method):
    """Unified Concept Editing (Gandikota et al., WACV 2024)."""

    name, title, version = "uce", "UCE edits of the key and value matrices", 1
    settings: type[TokensConfig] = UceConfig
    presets = PRESETS
    removal = IN_WEIGHTS
    joint, seeded, file_name = True, False, "edit.safetensors"

    def train(self, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: Any, bench: Bench) -> list[Piece]:
        """Solves for the one edit of all concepts."""
        from cpe.methods.uce.edit import name_ends

        step = bench.begin(1, 0)
        named = [p for lesson in lessons for p in (*lesson.target, *lesson.surrogate, *lesson.anchors)]
        ends = name_ends(dict.fromkeys(named), lambda text: ids_of(pipe.tokenizer, text))
        found = self.tensors(lessons, texts, ends.__getitem__, config, pipe)
        step("edit")
        concepts = json.dumps([lesson.concept for lesson in lessons])
        return [Piece(found, {METHOD_KEY: self.name, "concepts": concepts})]

    def tensors(
        self, lessons: Sequence[Lesson], texts: Encoded, place: "Place", config: Any, pipe: Any
    ) -> dict[str, "Tensor"]:
        """Returns what a file holds of the edit, by name."""
        from cpe.methods.weights import TEXT_MAP

        return {TEXT_MAP: self.solution(lessons, texts, place, config, pipe)}

    def solution(self, lessons: Sequence[Lesson], texts: Encoded, place: "Place", config: Any, pipe: Any) -> "Tensor":
        """Returns G − I, (D, D) float32, by which the matrices change."""
        from cpe.methods.uce.edit import text_map

        return text_map(lessons, texts, place, config)

    def load(self, paths: Sequence[Path]) -> Erased:
        """Reads one edit; two of them cannot be put on one model, since each was solved alone."""
        from cpe.methods.weights import read_edit

        return read_edit(paths)

    def seconds(self, pipe: Any, text: "Tensor", config: Any, concepts: int, cache: Path) -> float:
        """Returns a concept's share, from an edit of a few prompts."""
        rows = {str(number): number for number in range(len(text))} | {"": 0}
        half = len(text) // 2
        own, other = (tuple(Prompt(str(n), str(n)) for n in part) for part in (range(half), range(half, 2 * half)))
        lessons = [Lesson(str(number), own, other, own + other, number) for number in range(concepts)]
        started = time.perf_counter()
        self.tensors(lessons, Encoded(rows, text), lambda prompt: 1, config, pipe)
        return (time.perf_counter() - started) / concepts

    def size(self, pipe: Any, config: Any, concepts: int) -> int:
        """Returns the bytes of the one matrix, float32."""
        from cpe.models.families.table import sites_of
        from cpe.models.sites import widths_of

        width = widths_of(next(iter(sites_of(pipe).values())))[1]
        return 4 * width * width


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Returns a text's tokens without start, end and padding."""
    read = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length, add_special_tokens=True)
    ids: list[int] = read.input_ids
    return ids[1:-1]


UCE = Uce()

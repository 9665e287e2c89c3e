"""The negative prompt alone as one of the ways of erasing: what costs nothing, to measure the others by."""

# Axes: B prompts, T tokens, D text width.

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpe.methods.base import Method
from cpe.methods.erased import METHOD_KEY, Erased
from cpe.methods.lessons import Bench, Encoded, Lesson, Piece
from cpe.methods.negative.config import PRESETS, NegativeConfig

if TYPE_CHECKING:
    from torch import Tensor


class Negative(Method):
    """The erased names, in the negative prompt of every picture."""

    name, title, version = "negative-prompt", "the erased names as negative prompt", 1
    settings, presets = NegativeConfig, PRESETS
    joint, seeded, file_name = True, False, "negative.safetensors"
    removal = "lies in the call: whoever leaves the words out draws with the untouched model"

    def train(
        self, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: NegativeConfig, bench: Bench
    ) -> list[Piece]:
        """Encodes the names; nothing is trained.

        Raises:
            ValueError: they are more than the text encoder reads.
        """
        from cpe.methods.negative.eraser import GUIDANCE, TEXT, WORDS
        from cpe.models.text import encode_prompts

        step = bench.begin(1, 0)
        names = dict.fromkeys(prompt.name for lesson in lessons for prompt in lesson.target)
        words, tokenizer = ", ".join(names), pipe.tokenizer
        read, most = len(tokenizer(words).input_ids), tokenizer.model_max_length
        if read > most:
            raise ValueError(
                f"the names of {len(lessons)} concepts are {read} tokens as a negative prompt, of which the text "
                f"encoder reads {most}: what stands behind would not be erased; take another method, or fewer targets"
            )
        text = encode_prompts(pipe, [words])[0]  # (T, D)
        step("negative prompt")
        concepts = json.dumps([lesson.concept for lesson in lessons])
        told = {METHOD_KEY: self.name, "concepts": concepts, WORDS: words, GUIDANCE: str(config.guidance_scale)}
        return [Piece({TEXT: text.contiguous()}, told, {WORDS: words})]

    def load(self, paths: Sequence[Path]) -> Erased:
        """Reads one negative prompt."""
        from cpe.methods.negative.eraser import read_negative

        return read_negative(paths)

    def drawn_at(self, config: NegativeConfig, guidance_scale: float) -> float:
        return guidance_scale if guidance_scale > 1 else config.guidance_scale

    def seconds(self, pipe: Any, text: "Tensor", config: NegativeConfig, concepts: int, cache: Path) -> float:
        """Returns a concept's share of one prompt's encoding."""
        from cpe.models.text import encode_prompts

        started = time.perf_counter()
        encode_prompts(pipe, [""])
        return (time.perf_counter() - started) / concepts

    def size(self, pipe: Any, config: NegativeConfig, concepts: int) -> int:
        """Returns the bytes of one embedding, float32."""
        from cpe.models.families.table import sites_of
        from cpe.models.sites import widths_of

        width = widths_of(next(iter(sites_of(pipe).values())))[1]
        return 4 * width * int(pipe.tokenizer.model_max_length)


NEGATIVE = Negative()

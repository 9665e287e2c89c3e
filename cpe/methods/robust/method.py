"""Text maps trained against learned tokens, as one of the ways of erasing: one map a concept, on the text alone."""

# Axes: B prompts, T tokens, D text width, H units.

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cpe.methods.base import Method
from cpe.methods.erased import METHOD_KEY, Erased
from cpe.methods.lessons import Bench, Curve, Encoded, Lesson, Piece, Prompt
from cpe.methods.robust.config import PRESETS, RobustConfig

if TYPE_CHECKING:
    from torch import Tensor

TIMED_STEPS = 4  # of each kind
LOSSES = ("erase", "anchor", "near")


class Robust(Method):
    """One map of the text a concept, trained in a game against tokens that are learned through the text encoder."""

    name, title, version = "cpe-robust", "text maps trained against learned tokens", 1
    settings, presets = RobustConfig, PRESETS
    joint, file_name = False, "map.safetensors"

    def train(
        self, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: RobustConfig, bench: Bench
    ) -> list[Piece]:
        """Trains a map a concept, one after another."""
        from cpe.methods.robust.eraser import to_tensors
        from cpe.methods.robust.training import train
        from cpe.models.attachment import network_of
        from cpe.models.projections import BaseProjections

        base = BaseProjections.of(network_of(pipe), tokens=texts.table.shape[1], device=pipe.device, cache=bench.cache)
        done = train(lessons, texts, pipe, base, config, begin=bench.begin, checkpoint=bench.checkpoint)
        return [
            Piece(
                to_tensors(found),
                {METHOD_KEY: self.name, "concepts": json.dumps([lesson.concept])},
                {"losses": curve},
            )
            for lesson, found, curve in zip(lessons, done.maps, done.curves, strict=False)
        ]

    def load(self, paths: Sequence[Path]) -> Erased:
        """Reads maps, one a file."""
        from cpe.methods.robust.eraser import read_maps

        return read_maps(paths)

    def seconds(self, pipe: Any, text: "Tensor", config: RobustConfig, concepts: int, cache: Path) -> float:
        """Returns what a map takes, from a few steps of each kind."""
        half = len(text) // 2
        words = [Prompt(f"{number} things", "things") for number in range(2 * half)]
        texts = Encoded({prompt.text: row for row, prompt in enumerate(words)} | {"": 0}, text)
        lesson = Lesson("things", tuple(words[:half]), tuple(words[half:]), tuple(words), 0)
        moments: list[float] = []

        def begin(steps: int, done: int) -> Any:
            return lambda said: moments.append(time.perf_counter())

        short = {"alone_steps": TIMED_STEPS + 1, "game_steps": TIMED_STEPS, "strays": 16, "target_strays": 16}
        with TemporaryDirectory() as folder:
            bench = Bench(cache, Path(folder) / "checkpoint", begin)
            self.train([lesson], texts, pipe, config.model_copy(update=short), bench)
        alone, game = ((moments[at + TIMED_STEPS] - moments[at]) / TIMED_STEPS for at in (0, TIMED_STEPS))
        return config.alone_steps * alone + config.game_steps * game

    def size(self, pipe: Any, config: RobustConfig, concepts: int) -> int:
        """Returns the bytes of so many maps, float32."""
        from cpe.models.families.table import sites_of
        from cpe.models.sites import widths_of

        width = widths_of(next(iter(sites_of(pipe).values())))[1]
        return 4 * concepts * config.units * (2 * width + 1)

    def curves(self, config: Mapping[str, Any], losses: Sequence[Mapping[str, Any]]) -> list[Curve]:
        """Returns the losses of both parts of a training; `near` is of the game alone."""
        begun = config["alone_steps"]
        parts = [[p for p in losses if p["step"] < begun], [p for p in losses if p["step"] >= begun]]
        return [
            Curve(
                loss, [[(p["step"], p[loss]) for p in part if loss != "near" or p["step"] >= begun] for part in parts]
            )
            for loss in LOSSES
        ]


ROBUST = Robust()

"""SPEED as one of the ways of erasing: a closed-form edit of each matrix, within what anchors leave free."""

# Axes: D text width, O projection width.

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpe.methods.erased import Erased
from cpe.methods.lessons import Bench, Encoded, Lesson, Piece
from cpe.methods.speed.config import PRESETS, SpeedConfig
from cpe.methods.uce.method import Uce

if TYPE_CHECKING:
    from torch import Tensor

    from cpe.methods.uce.edit import Place


class Speed(Uce):
    """SPEED (Li et al., ICLR 2026)."""

    name, title, version = "speed", "SPEED edits of the key and value matrices", 1
    settings, presets, seeded = SpeedConfig, PRESETS, True

    def train(self, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: Any, bench: Bench) -> list[Piece]:
        """Solves for the edits of all matrices.

        Raises:
            ValueError: anchors leave no matrix a direction to change in.
        """
        pieces = super().train(lessons, texts, pipe, config, bench)
        if not any(delta.any() for delta in pieces[0].tensors.values()):
            raise ValueError(
                f"the anchors leave no direction free in which the text is below the threshold {config.threshold}, so "
                "nothing would be erased; raise the threshold, or give fewer anchors"
            )
        return pieces

    def tensors(
        self, lessons: Sequence[Lesson], texts: Encoded, place: "Place", config: Any, pipe: Any
    ) -> dict[str, "Tensor"]:
        """Returns what is added to each matrix, (O, D) float32, by the names of its file."""
        from cpe.methods.speed.edit import deltas
        from cpe.methods.weights import DELTA_PREFIX
        from cpe.models.attachment import network_of
        from cpe.models.sites import weight_of

        network = network_of(pipe)
        matrices = {path: weight_of(network, path).detach().cpu() for path in edited(pipe, config)}
        found = deltas(lessons, texts, place, config, matrices)
        return {DELTA_PREFIX + path: delta for path, delta in found.items()}

    def load(self, paths: Sequence[Path]) -> Erased:
        """Reads one edit; two of them cannot be put on one model, since each was solved alone."""
        from cpe.methods.weights import read_layers

        return read_layers(paths)

    def size(self, pipe: Any, config: Any, concepts: int) -> int:
        """Returns the bytes of the edited matrices' changes, float32."""
        from cpe.models.families.table import sites_of
        from cpe.models.sites import widths_of

        sites = sites_of(pipe)
        return 4 * sum(out * width for out, width in (widths_of(sites[path]) for path in edited(pipe, config)))


def edited(pipe: Any, config: SpeedConfig) -> list[str]:
    """Returns the module paths of the matrices that are edited."""
    from cpe.models.families.table import sites_of

    return [path for path in sites_of(pipe) if config.matrices == "both" or path.endswith("to_v")]


SPEED = Speed()

"""RECE as one of the ways of erasing: UCE's edit, repeated on what still brings the concepts back."""

# Axes: D text width, O projection width.

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.rece.config import PRESETS, ReceConfig
from cpe.methods.uce.method import Uce

if TYPE_CHECKING:
    from torch import Tensor

    from cpe.methods.uce.edit import Place


class Rece(Uce):
    """Reliable and Efficient Concept Erasure (Gong et al., ECCV 2024)."""

    name, title, version = "rece", "RECE edits of the key and value matrices", 1
    settings, presets = ReceConfig, PRESETS

    def solution(
        self, lessons: Sequence[Lesson], texts: Encoded, place: "Place", config: ReceConfig, pipe: Any
    ) -> "Tensor":
        """Returns G − I, (D, D) float32, by which the matrices change."""
        from cpe.methods.rece.edit import text_map
        from cpe.models.attachment import network_of
        from cpe.models.families.table import sites_of
        from cpe.models.sites import weight_of

        network = network_of(pipe)
        matrices = (weight_of(network, path).detach().cpu() for path in sites_of(pipe))
        return text_map(lessons, texts, place, config, matrices)


RECE = Rece()

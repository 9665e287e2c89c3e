"""ESD as two of the ways of erasing: with the cross-attentions trained (esd-x), or everything else (esd-u)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpe.methods.esd.config import PRESETS, EsdConfig
from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.tuning.method import Tuning

if TYPE_CHECKING:
    from cpe.methods.tuning.diffusion import Diffusion
    from cpe.methods.tuning.network import Student
    from cpe.methods.tuning.training import Goal


class EsdX(Tuning):
    """Erased Stable Diffusion (Gandikota et al., ICCV 2023), the cross-attentions trained: for what a prompt names."""

    name, title, version = "esd-x", "ESD training of the cross-attentions", 1
    settings, presets = EsdConfig, PRESETS

    def paths(self, pipe: Any) -> list[str]:
        """Returns the projections of the cross-attentions: queries, keys, values and outputs."""
        return _layers(pipe, crossing=True)

    def goal(
        self, lessons: Sequence[Lesson], texts: Encoded, student: "Student", diffusion: "Diffusion", config: EsdConfig
    ) -> "Goal":
        """Returns ESD's goal."""
        from cpe.methods.esd.goal import EsdGoal

        return EsdGoal(lessons, texts, student, diffusion, config)


class EsdU(EsdX):
    """The same, everything but the cross-attentions trained: for what is drawn also where no prompt names it."""

    name, title = "esd-u", "ESD training of all but the cross-attentions"

    def paths(self, pipe: Any) -> list[str]:
        """Returns all projections and convolutions outside the cross-attentions."""
        return _layers(pipe, crossing=False)


def _layers(pipe: Any, *, crossing: bool) -> list[str]:
    """Returns the layers inside the cross-attentions, or those outside."""
    from cpe.methods.tuning.network import layers_of
    from cpe.models.attachment import network_of
    from cpe.models.families.table import sites_of

    attentions = tuple(f"{path.rpartition('.')[0]}." for path in sites_of(pipe))
    return layers_of(network_of(pipe), lambda path: path.startswith(attentions) == crossing)


ESD_X, ESD_U = EsdX(), EsdU()

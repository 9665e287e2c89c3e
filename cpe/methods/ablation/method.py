"""Concept Ablation as one of the ways of erasing: keys and values trained towards the surrogate's prediction."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpe.methods.ablation.config import PRESETS, AblationConfig
from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.tuning.method import Tuning

if TYPE_CHECKING:
    from cpe.methods.tuning.diffusion import Diffusion
    from cpe.methods.tuning.network import Student
    from cpe.methods.tuning.training import Goal


class ConceptAblation(Tuning):
    """Concept Ablation (Kumari et al., ICCV 2023), model-based, of the cross-attentions' keys and values."""

    name, title, version = "concept-ablation", "Concept Ablation of the key and value matrices", 1
    settings, presets = AblationConfig, PRESETS

    def paths(self, pipe: Any) -> list[str]:
        """Returns the key and value projections of the cross-attentions."""
        from cpe.models.families.table import sites_of

        return list(sites_of(pipe))

    def goal(
        self,
        lessons: Sequence[Lesson],
        texts: Encoded,
        student: "Student",
        diffusion: "Diffusion",
        config: AblationConfig,
    ) -> "Goal":
        """Returns Concept Ablation's goal."""
        from cpe.methods.ablation.goal import AblationGoal

        return AblationGoal(lessons, texts, student, diffusion, config)


ABLATION = ConceptAblation()

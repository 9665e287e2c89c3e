"""CPE as one of the ways of erasing: a gate a concept, trained in stages on the text alone."""

# Axes: B prompts, T tokens, D text width.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpe.methods.base import Method
from cpe.methods.erased import Erased
from cpe.methods.lessons import Bench, Curve, Encoded, Lesson, Piece
from cpe.methods.pinpoint.config import PRESETS, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from cpe.methods.pinpoint.batch import ConceptTexts

LOSSES = ("erase", "adversarial", "anchor")


class Pinpoint(Method):
    """Concept Pinpoint Eraser (Lee et al., ICLR 2025)."""

    name, title, version = "cpe", "CPE gates", 3
    settings, presets = TrainingConfig, PRESETS
    joint, file_name = False, "gate.safetensors"

    def train(
        self, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: TrainingConfig, bench: Bench
    ) -> list[Piece]:
        """Trains a gate a concept, all of them as one batch."""
        from cpe.methods.pinpoint.embedding import changes_of, reaches
        from cpe.methods.pinpoint.storage.files import metadata_of, to_tensors
        from cpe.methods.pinpoint.training import steps_in_all, train
        from cpe.models.attachment import network_of
        from cpe.models.projections import BaseProjections

        base = BaseProjections.of(network_of(pipe), tokens=texts.table.shape[1], device=pipe.device, cache=bench.cache)
        done: Any = None

        def begin(taken: int) -> None:  # once all is ready, so that the clock counts steps alone
            nonlocal done
            done = bench.begin(steps_in_all(config), taken)

        trained = train(
            concept_texts(lessons, texts, pipe.device),
            base,
            texts.empty,
            config,
            watch=lambda record: done(f"stage {record.stage + 1}/{config.stages} {record.phase}"),
            begin=begin,
            checkpoint=bench.checkpoint,
        )
        gates = [trained.gates[index : index + 1] for index in range(len(lessons))]
        made = changes_of(trained.gates, base).to(gates[0].up.dtype) if reaches(pipe) else None
        changes = [None if made is None else made[index : index + 1] for index in range(len(lessons))]
        return [
            Piece(
                to_tensors(gate, base.names, change),
                metadata_of(gate, [lesson.concept]),
                {
                    "tied_qk": config.gate.tied_qk,
                    "sites": dict(zip(base.names, gate.widths, strict=True)),
                    "losses": list(curve),
                },
            )
            for lesson, gate, change, curve in zip(lessons, gates, changes, trained.curves, strict=True)
        ]

    def load(self, paths: Sequence[Path]) -> Erased:
        """Reads gates; of a folder, every file below it that holds one counts."""
        from cpe.methods.pinpoint.eraser import Eraser

        return Eraser.load(paths)

    def seconds(self, pipe: Any, text: "Tensor", config: TrainingConfig, concepts: int, cache: Path) -> float:
        """Returns what a gate takes, from a few steps of each kind."""
        from cpe.methods.pinpoint.cost import seconds_of, time_steps

        return seconds_of(config, *time_steps(pipe, text, config, concepts, cache))

    def size(self, pipe: Any, config: TrainingConfig, concepts: int) -> int:
        """Returns the bytes of so many gates, float32."""
        from cpe.methods.pinpoint.embedding import reaches
        from cpe.models.families.table import sites_of
        from cpe.models.sites import widths_of

        gate, widths = config.gate, [widths_of(module) for module in sites_of(pipe).values()]
        width = widths[0][1]
        adapters = sum(gate.adapter_rank * (width * (2 if reaches(pipe) else 1) + out) for out, _ in widths)
        return 4 * concepts * (2 * width * gate.gate_rank + width + adapters)

    def curves(self, config: Mapping[str, Any], losses: Sequence[Mapping[str, Any]]) -> list[Curve]:
        """Returns the erasing stages' losses, as they are before they are weighted."""
        curves = []
        for loss in LOSSES:
            stages: list[list[tuple[int, float]]] = [[] for _ in range(config["stages"])]
            for point in losses:
                stage = point["stage"]
                if point["phase"] != "erase" or (loss == "adversarial" and stage == 0):
                    continue
                before = 0 if stage == 0 else config["first_steps"] + (stage - 1) * config["later_steps"]
                stages[stage].append((before + point["step"], point[loss]))
            curves.append(Curve(loss, stages))
        return curves


def concept_texts(lessons: Sequence[Lesson], texts: Encoded, device: Any) -> "list[ConceptTexts]":
    """Returns what gates learn from; anchors stay in the mapped table on a CPU, and move to any other device at once.

    Args:
        lessons: of the concepts that train together.
        texts: the embeddings of their prompts.
        device: where they will train.
    """
    import torch

    from cpe.methods.pinpoint.batch import ConceptTexts

    anchors, place_of = texts.table, texts.rows
    if device.type != "cpu":
        used = sorted({prompt.text for lesson in lessons for prompt in lesson.anchors})
        rows = [texts.rows[text] for text in used]
        anchors, place_of = texts.table[rows].to(device), {text: place for place, text in enumerate(used)}
    return [
        ConceptTexts(
            lesson.concept,
            target=texts.of(prompt.text for prompt in lesson.target),
            surrogate=texts.of(prompt.text for prompt in lesson.surrogate),
            anchors=anchors,
            anchor_rows=torch.tensor([place_of[prompt.text] for prompt in lesson.anchors], device=device),
            seed=lesson.seed,
        )
        for lesson in lessons
    ]


PINPOINT = Pinpoint()

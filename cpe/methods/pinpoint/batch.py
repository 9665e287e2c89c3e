"""Concepts that train together: their texts, their gates, and each one's own sources of randomness."""

# Axes: N concepts, K templates, T tokens, D text width.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cpe.methods.pinpoint.config import TrainingConfig
from cpe.methods.pinpoint.gates import Gates
from cpe.models.padding import ended, present
from cpe.models.projections import BaseProjections


@dataclass(frozen=True)
class ConceptTexts:
    """The text embeddings one gate learns from.

    Example:
        >>> from cpe import encode_prompts, load_pipeline
        >>> pipe = load_pipeline("embedded", device="cpu")
        >>> rose, thing = (encode_prompts(pipe, [f"a {name}", f"one {name}"]) for name in ("rose", "object"))
        >>> texts = ConceptTexts("rose", rose, thing, anchors=encode_prompts(pipe, ["a tulip", "a tree"]), seed=0)
        >>> texts.target.shape  # templates, tokens, text width
        torch.Size([2, 77, 96])

    Attributes:
        concept: its name.
        target: the concept in each training template, (K, T, D).
        surrogate: what it turns into, in the same templates, (K, T, D).
        anchors: what must not change, (prompts, T, D); several concepts may share one, for instance memory-mapped.
        seed: of everything drawn for this concept.
        anchor_rows: this concept's rows of `anchors`; None means all.
    """

    concept: str
    target: Tensor
    surrogate: Tensor
    anchors: Tensor
    seed: int
    anchor_rows: Tensor | None = None


@dataclass(frozen=True)
class Draws:
    """One concept's sources of randomness.

    Attributes:
        choices: of templates, anchors and their shares, on the CPU.
        noise: of anchors' noise and of copies, on the device.
    """

    choices: torch.Generator
    noise: torch.Generator


@dataclass(frozen=True)
class Batch:
    """N concepts in training.

    Attributes:
        gates: their gates, whose moving tensors are views of `flat`.
        flat: what training moves, one row a concept, (N, P).
        target: each concept in K templates, (N, K, T, D).
        surrogate: what each token of it turns into, (N, K, T, D).
        empty: the empty prompt, (T, D).
        table: embeddings that anchors are rows of, (prompts, T, D), in any floating type.
        anchors: each concept's rows in the table.
        draws: one a concept.
        padded: whether texts have padding that the network leaves out (rows of zeros, `cpe.models.padding`).
    """

    gates: Gates
    flat: Tensor
    target: Tensor
    surrogate: Tensor
    empty: Tensor
    table: Tensor
    anchors: tuple[Tensor, ...]
    draws: tuple[Draws, ...]
    padded: bool = False

    @classmethod
    def fresh(
        cls, concepts: Sequence[ConceptTexts], base: BaseProjections, empty: Tensor, config: TrainingConfig
    ) -> "Batch":
        """Returns untrained concepts, in the base model's dtype and on its device.

        Raises:
            ValueError: no concepts, concepts with different numbers of target prompts or different tables of anchors,
                none at all, or another text width than the model's.
        """
        _check(concepts)
        gates = fresh_gates(concepts, base, config)
        flat = gates.flat()
        table = concepts[0].anchors
        every = torch.arange(len(table), device=table.device)
        noise = [torch.Generator(flat.device) for _ in concepts]
        target = torch.stack([texts.target for texts in concepts]).to(flat)
        surrogate = torch.stack([texts.surrogate for texts in concepts]).to(flat)
        # The empty prompt is nearly all padding; in texts without any, none of its tokens is.
        padded = not bool(present(empty).all() and present(target).all())
        return cls(
            gates=gates.viewing(flat),
            flat=flat,
            target=target,
            surrogate=ended(surrogate, target) if padded else surrogate,
            empty=empty.to(flat),
            table=table,
            anchors=tuple(every if texts.anchor_rows is None else texts.anchor_rows for texts in concepts),
            draws=tuple(
                Draws(torch.Generator().manual_seed(texts.seed + 1), generator.manual_seed(texts.seed + 2))
                for texts, generator in zip(concepts, noise, strict=True)
            ),
            padded=padded,
        )

    def some(self, places: Sequence[int]) -> "Batch":
        """Returns some of the concepts; what moves is copied, the sources of randomness are the same."""
        chosen = torch.tensor(places, device=self.flat.device)
        flat = self.flat[chosen]
        return Batch(
            gates=self.gates[chosen].viewing(flat),
            flat=flat,
            target=self.target[chosen],
            surrogate=self.surrogate[chosen],
            empty=self.empty,
            table=self.table,
            anchors=tuple(self.anchors[place] for place in places),
            draws=tuple(self.draws[place] for place in places),
            padded=self.padded,
        )


def fresh_gates(concepts: Sequence[ConceptTexts], base: BaseProjections, config: TrainingConfig) -> Gates:
    """Returns untrained gates, one a concept, from the concepts' own seeds.

    Raises:
        ValueError: the texts' width is not the model's.
    """
    for texts in concepts:
        width = texts.target.shape[-1]
        if width != base.text_width:
            raise ValueError(
                f"{texts.concept!r} comes with text width {width}, the base model expects {base.text_width}; "
                "was it encoded by another text encoder?"
            )
    generators = [torch.Generator().manual_seed(texts.seed) for texts in concepts]
    gates = Gates.fresh(config.gate, base.text_width, base.widths, generators)
    return gates.map(lambda tensor: tensor.to(base.gram))


def _check(concepts: Sequence[ConceptTexts]) -> None:
    if not concepts:
        raise ValueError("there are no concepts to train; give at least one")
    if len({texts.target.shape for texts in concepts}) > 1:
        raise ValueError("concepts that train together need the same number of target prompts; train them in groups")
    table = concepts[0].anchors
    if any(texts.anchors is not table for texts in concepts):
        raise ValueError("concepts that train together draw anchors from one table; give each its anchor_rows in it")
    for texts in concepts:
        if len(table if texts.anchor_rows is None else texts.anchor_rows) == 0:
            raise ValueError(f"{texts.concept!r} has no anchors; give it at least one")

"""What methods learn from, and what they give. Free of torch."""

# Axes: B prompts, M embeddings, T tokens, D text width.

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Prompt(NamedTuple):
    """A prompt of training, and the name that stands in it."""

    text: str
    name: str


@dataclass(frozen=True)
class Lesson:
    """What a method learns one concept from.

    Attributes:
        concept: its name.
        target: the concept, under each of its names in each template.
        surrogate: what it turns into, in the same templates, one for each of `target`.
        anchors: what must not change.
        seed: of everything drawn for this concept.
    """

    concept: str
    target: tuple[Prompt, ...]
    surrogate: tuple[Prompt, ...]
    anchors: tuple[Prompt, ...]
    seed: int

    @property
    def texts(self) -> list[str]:
        """All of its prompts; the empty one, which every method holds still, besides."""
        return [prompt.text for prompt in (*self.target, *self.surrogate, *self.anchors)]


@dataclass(frozen=True)
class Encoded:
    """Prompts as the base model's text encoder reads them.

    Attributes:
        rows: each prompt's row; that of the empty prompt is there too.
        table: embeddings (M, T, D) in half precision, memory-mapped.
    """

    rows: Mapping[str, int]
    table: "Tensor"

    def of(self, texts: Iterable[str]) -> "Tensor":
        """Returns prompts' embeddings, (B, T, D) float32."""
        return self.table[[self.rows[text] for text in texts]].float()

    @property
    def empty(self) -> "Tensor":
        """The empty prompt's embedding, (T, D) float32."""
        return self.table[self.rows[""]].float()


Step = Callable[[str], Any]  # told what was done, in a word or two


@dataclass(frozen=True)
class Bench:
    """Where a training keeps what it needs, and whom it tells.

    Attributes:
        cache: folder of what is computed once a base model.
        checkpoint: file that a training which can be gone on from writes, and resumes from.
        begin: told how many steps there are and how many are done already; returns what is called after each.
    """

    cache: Path
    checkpoint: Path
    begin: Callable[[int, int], Step] = lambda steps, done: lambda said: None


@dataclass(frozen=True)
class Piece:
    """What a training gives: one concept's own (a gate), or all concepts' together.

    Attributes:
        tensors: by name, as its file holds them.
        metadata: of that file.
        notes: more for its manifest, as plain values.
    """

    tensors: Mapping[str, "Tensor"]
    metadata: Mapping[str, str]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Curve(NamedTuple):
    """One loss of a training: (step, loss) a stage, steps counted through all stages."""

    loss: str
    stages: list[list[tuple[int, float]]]

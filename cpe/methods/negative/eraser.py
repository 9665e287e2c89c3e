"""The negative prompt alone as something that erases: nothing of the model changes but what it is guided away from."""

# Axes: T tokens, D text width.

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cpe.methods.erased import Erased
from cpe.methods.weights import EditError, read_piece
from cpe.models.guidance import NegativePrompt
from wording.foreign import show

TEXT = "negative_prompt"  # the tensor's name in a file
WORDS, GUIDANCE = "words", "guidance_scale"  # in its metadata


class NegativeNames(Erased):
    """Concepts whose names are the negative prompt.

    Args:
        concepts: their names.
        words: the negative prompt.
        text: its embedding, (T, D).
        guidance_scale: at which the network guides itself where a pipeline draws without guidance.
    """

    def __init__(self, concepts: Sequence[str], words: str, text: Tensor, guidance_scale: float) -> None:
        self._concepts = tuple(concepts)
        self.words, self.text, self.guidance_scale = words, text, guidance_scale
        self._attachment: NegativePrompt | None = None

    @property
    def concepts(self) -> tuple[str, ...]:
        return self._concepts

    def attach(self, pipe: Any) -> None:
        """Puts the words in front of every negative prompt of a pipeline; a network by itself is guided by itself.

        Raises:
            ValueError: the network has another text width, or no cross-attention.
            RuntimeError: something that erases is on it already.
        """
        if self._attachment is not None and self._attachment.active:
            raise RuntimeError("this negative prompt is attached already; detach it first")
        self._attachment = NegativePrompt(pipe, self.words, self.text, self.guidance_scale)

    def detach(self) -> None:
        """Takes the words off again; does nothing if they are not on."""
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of it is attached nowhere."""
        return {**vars(self), "_attachment": None}


def read_negative(paths: Sequence[Path]) -> NegativeNames:
    """Reads a negative prompt from its file.

    Raises:
        FileNotFoundError: there is no such file.
        EditError: several files, or one that is damaged, or holds no words, embedding or guidance.
    """
    path, concepts, tensors, metadata = read_piece(paths)
    text, words = tensors.get(TEXT), metadata.get(WORDS, "")
    if text is None or text.dim() != 2 or not words:
        raise EditError(f"{path} is damaged (it holds no {TEXT} with its words); make or fetch it again")
    try:
        scale = float(metadata.get(GUIDANCE, ""))
    except ValueError:
        scale = math.nan
    if not (math.isfinite(scale) and scale > 1):
        raise EditError(f"{path}: {GUIDANCE} must be above 1, got {show(metadata.get(GUIDANCE))}; make it again")
    return NegativeNames(concepts, words, text.float(), scale)

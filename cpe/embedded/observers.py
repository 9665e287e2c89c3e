"""What looks at the embedded model's pictures: its classifiers of nouns and of people, and its CLIP model."""

# Axes: P pictures, F features, E joint width.

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from safetensors import safe_open
from torch import Tensor

from cpe.embedded.classifier import PictureClassifier, classify
from cpe.embedded.people import people
from cpe.embedded.pixels import to_tensor
from cpe.embedded.scorer import ClipScorer, load_clip
from cpe.metrics.moved import place_maps
from cpe.models.loading import EMBEDDED_FOLDER
from cpe.observers.base import Missing, Observer
from cpe.observers.people import NO_FACE, Recognition, identity_values

BATCH = 128  # pictures looked at together


class EmbeddedClassifier(Observer):
    """Says which noun and which style a picture shows, and gives the features of FID and KID."""

    name = "classifier"

    def __init__(self) -> None:
        self.identity = _hash_of(EMBEDDED_FOLDER / "classifier" / "model.safetensors")

    @cached_property
    def _model(self) -> PictureClassifier:  # loaded when it looks first
        return PictureClassifier.load(EMBEDDED_FOLDER / "classifier")

    def look(self, pictures: Sequence[Image], prompts: Sequence[str]) -> dict[str, NDArray]:
        """Returns noun (P,), style (P,) and embedded_features (P, F)."""
        nouns, styles, features = classify(self._model, to_tensor(list(pictures)))
        return {
            "noun": np.array(self._model.nouns)[nouns.numpy()],
            "style": np.array(self._model.styles)[styles.numpy()],
            "embedded_features": features.numpy(),
        }


class EmbeddedPeople(Observer):
    """Says who is on a picture, as a detector of celebrities does: the classifier of people names one, or nobody.

    Attributes:
        labels: whom it can recognise.

    Args:
        folder: of the classifier.

    Raises:
        Missing: there is none.
    """

    name = "identity"

    def __init__(self, folder: Path = EMBEDDED_FOLDER / "identity") -> None:
        if not (folder / "model.safetensors").is_file():
            raise Missing("The embedded model that is shipped draws no people yet (cpe/embedded/MODEL_CARD.md).")
        self.identity = _hash_of(folder / "model.safetensors")
        self.labels, self._folder = people(), folder

    @cached_property
    def _model(self) -> PictureClassifier:  # loaded when it looks first
        return PictureClassifier.load(self._folder)

    def look(self, pictures: Sequence[Image], prompts: Sequence[str]) -> dict[str, NDArray]:
        """Returns who is on each picture: identity (P,), identity_score (P,), faces (P,)."""
        with torch.inference_mode():
            chances = [self._model(part)[0].softmax(dim=1) for part in to_tensor(list(pictures)).split(BATCH)]
        sure, found = torch.cat(chances).max(dim=1)
        names = [self._model.nouns[index] for index in found.tolist()]
        seen = zip(names, sure.tolist(), strict=True)
        return identity_values([Recognition(name, score, 1) if name else NO_FACE for name, score in seen])


class EmbeddedClip(Observer):
    """Features of pictures and of their prompts in the embedded CLIP model."""

    name = "clip"

    def __init__(self) -> None:
        path = EMBEDDED_FOLDER / "clip" / "model.safetensors"
        self.identity = _hash_of(path)
        with safe_open(str(path), "pt") as opened:
            self.logit_scale: float = opened.get_tensor("logit_scale").float().item()

    @cached_property
    def _clip(self) -> ClipScorer:  # loaded when it looks first
        return load_clip()

    def look(self, pictures: Sequence[Image], prompts: Sequence[str]) -> dict[str, NDArray]:
        """Returns clip_image (P, E) and clip_text (P, E)."""
        images = self._clip.images(to_tensor(list(pictures)))
        return {"clip_image": images.numpy(), "clip_text": self._clip.texts(list(prompts)).numpy()}

    def maps(self, pictures: Sequence[Image]) -> list[Tensor]:
        """Returns features of every place after each layer, L of (P, T, W)."""
        with torch.inference_mode():
            return place_maps(self._clip.model, to_tensor(list(pictures)))


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

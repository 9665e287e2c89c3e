"""The embedded CLIP model as a scorer: features of pictures and of texts."""

# Axes: B pictures or texts, E joint width.

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpe.models.loading import EMBEDDED_FOLDER
from cpe.terms.chunks import chunks


@dataclass(frozen=True)
class ClipScorer:
    """A CLIP model with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def logit_scale(self) -> float:
        """The model's parameter: its exponential is what cosines are multiplied by."""
        return self.model.logit_scale.item()

    @torch.inference_mode()
    def images(self, pictures: Tensor, *, batch: int = 128) -> Tensor:
        """Returns image features (B, E) of pictures (B, 3, 64, 64) in -1..1."""
        parts = [self.model.get_image_features(pixel_values=part).pooler_output for part in pictures.split(batch)]
        return torch.cat(parts)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], *, batch: int = 128) -> Tensor:
        """Returns text features (B, E); a text that recurs is encoded once."""
        unique = list(dict.fromkeys(texts))
        parts = []
        for part in chunks(unique, batch):
            ids = self.tokenizer(list(part), padding="max_length", max_length=77, truncation=True, return_tensors="pt")
            parts.append(self.model.get_text_features(input_ids=ids.input_ids).pooler_output)
        rows = {text: row for row, text in enumerate(unique)}
        return torch.cat(parts)[[rows[text] for text in texts]]


def load_clip(folder: Path = EMBEDDED_FOLDER) -> ClipScorer:
    """Returns the CLIP model in FOLDER/clip with the pipeline's tokenizer, in float32."""
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    return ClipScorer(model, CLIPTokenizer.from_pretrained(folder / "tokenizer"))

"""A classifier of noun and style: on the embedded model it stands where a celebrity detector stands.

Its features (before the heads) also carry FID and KID on the embedded model, named after it.
"""

# Axes: B pictures, F features.

import json
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FEATURES = 128


class PictureClassifier(nn.Module):
    """A small convolutional network with one head for nouns and one for styles.

    Args:
        nouns: names of the first head's classes.
        styles: names of the second head's classes.
    """

    def __init__(self, nouns: tuple[str, ...], styles: tuple[str, ...]) -> None:
        super().__init__()
        self.nouns, self.styles = tuple(nouns), tuple(styles)
        widths = (3, 24, 48, 96, FEATURES)
        self.layers = nn.Sequential()
        for before, after in pairwise(widths):
            self.layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
            self.layers.append(nn.GroupNorm(8, after))
            self.layers.append(nn.SiLU())
            self.layers.append(nn.Conv2d(after, after, 3, padding=1))
            self.layers.append(nn.SiLU())
        self.mix = nn.Linear(FEATURES * 16, FEATURES)
        self.noun_head = nn.Linear(FEATURES, len(nouns))
        self.style_head = nn.Linear(FEATURES, len(styles))

    def features(self, pictures: Tensor) -> Tensor:
        """Returns features (B, F) of pictures (B, 3, 64, 64) in -1..1."""
        return F.silu(self.mix(self.layers(pictures).flatten(1)))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits of nouns (B, nouns) and of styles (B, styles)."""
        features = self.features(pictures)
        return self.noun_head(features), self.style_head(features)

    def save(self, folder: Path) -> None:
        """Writes weights in half precision and the class names."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.half().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"nouns": self.nouns, "styles": self.styles}, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "PictureClassifier":
        """Returns the classifier of a folder, in float32 and ready to judge."""
        names = json.loads((folder / "config.json").read_text())
        model = cls(tuple(names["nouns"]), tuple(names["styles"]))
        model.load_state_dict({n: v.float() for n, v in load_file(folder / "model.safetensors").items()})
        return model.eval().requires_grad_(False)


@torch.inference_mode()
def classify(model: PictureClassifier, pictures: Tensor, *, batch: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """Returns noun indices (B,), style indices (B,) and features (B, F)."""
    nouns, styles, features = [], [], []
    for part in pictures.split(batch):
        feature = model.features(part)
        nouns.append(model.noun_head(feature).argmax(dim=1))
        styles.append(model.style_head(feature).argmax(dim=1))
        features.append(feature)
    return torch.cat(nouns), torch.cat(styles), torch.cat(features)

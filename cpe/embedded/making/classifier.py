"""Trains the noun-and-style classifier on moved, turned, blurred, noisy and recoloured renders."""

# Axes: B pictures.

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cpe.embedded.classifier import PictureClassifier, classify
from cpe.embedded.making.data import load_icons
from cpe.embedded.making.run import Run, augment, seed_everything, start_processes
from cpe.embedded.subjects import NOUNS, STYLES

HELD_OUT_SEED = 90_001
HELD_OUT_ROUNDS = 5


def distort(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Returns augmented pictures (B, 3, 64, 64): pose, colour, sharpness and noise."""
    count = len(pictures)
    moved = augment(pictures, generator, shift=0.12, zoom=0.12, turn=0.15)
    gain = 1 + 0.15 * (torch.rand(count, 3, 1, 1, generator=generator) * 2 - 1)
    moved = (moved - 1) * gain + 1
    soft = F.interpolate(F.avg_pool2d(moved, 2), scale_factor=2, mode="bilinear")
    share = torch.rand(count, 1, 1, 1, generator=generator)
    noise = torch.randn(moved.shape, generator=generator) * 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
    return (moved.lerp(soft, share) + noise).clamp(-1, 1)


def train(folder: Path, *, steps: int, batch: int, seed: int) -> tuple[float, float, float]:
    """Trains, saves to FOLDER/classifier and returns (seconds, held-out noun accuracy, style accuracy)."""
    seed_everything(seed)
    start_processes()
    pictures = load_icons(folder)
    model = PictureClassifier(NOUNS, STYLES)

    def loss_of(generator: torch.Generator) -> Tensor:
        noun = torch.randint(len(NOUNS), (batch,), generator=generator)
        style = torch.randint(len(STYLES), (batch,), generator=generator)
        nouns, styles = model(distort(pictures[noun, style], generator))
        return F.cross_entropy(nouns, noun) + F.cross_entropy(styles, style)

    seconds = Run("classifier", folder, steps, peak_rate=2e-3, seed=seed).fit({"classifier": model}, loss_of)
    model.save(folder / "classifier")
    noun_accuracy, style_accuracy = held_out_accuracy(PictureClassifier.load(folder / "classifier"), pictures)
    return seconds, noun_accuracy, style_accuracy


def held_out_accuracy(model: PictureClassifier, pictures: Tensor) -> tuple[float, float]:
    """Returns the shares of right nouns and styles on renders augmented with seeds training never used."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    flat = pictures.flatten(0, 1).repeat(HELD_OUT_ROUNDS, 1, 1, 1)
    noun = torch.arange(len(NOUNS)).repeat_interleave(len(STYLES)).repeat(HELD_OUT_ROUNDS)
    style = torch.arange(len(STYLES)).repeat(len(NOUNS)).repeat(HELD_OUT_ROUNDS)
    nouns, styles, _ = classify(model, distort(flat, generator))
    return (nouns == noun).double().mean().item(), (styles == style).double().mean().item()


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seconds, noun, style = train(arguments.folder, steps=arguments.steps, batch=arguments.batch, seed=arguments.seed)
    print(f"{seconds:.0f} s, held-out renders: noun {noun:.1%}, style {style:.1%}")


if __name__ == "__main__":
    main()

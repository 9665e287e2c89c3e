"""Trains the classifier of people and looks, on the same distortions as that of nouns and styles.

Its last class of people is nobody: pictures of nouns, and pictures distorted beyond recognition.
"""

# Axes: B pictures.

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cpe.embedded.classifier import PictureClassifier, classify
from cpe.embedded.making.classifier import HELD_OUT_SEED, distort
from cpe.embedded.making.data import Pictures, load_pictures
from cpe.embedded.making.run import Run, seed_everything, start_processes
from cpe.embedded.people import LOOKS, NOBODY, people
from cpe.embedded.subjects import NOUNS, STYLES

NOISE_SHARE = 0.05  # of pictures, replaced by blurred noise


def classes_of(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Returns the person (M,) and the look (M,) of every picture; those of nouns show nobody, in no look."""
    shows_noun = pictures.subjects < len(NOUNS)
    person = torch.where(shows_noun, len(people()), pictures.subjects - len(NOUNS))
    look = torch.where(shows_noun, len(LOOKS), pictures.manners - len(STYLES))
    return person, look


def train(folder: Path, *, steps: int, batch: int, seed: int) -> tuple[float, float, float]:
    """Trains, saves to FOLDER/identity and returns (seconds, held-out accuracy of people, of looks)."""
    seed_everything(seed)
    start_processes()
    pictures = load_pictures(folder)
    person, look = classes_of(pictures)
    model = PictureClassifier((*people(), NOBODY), (*LOOKS, NOBODY))

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = pictures.draw(batch, generator)
        seen, who, how = distort(pictures.at(chosen), generator), person[chosen], look[chosen]
        noise = torch.rand(batch, generator=generator) < NOISE_SHARE
        seen[noise] = _noise(int(noise.sum()), generator)
        people_logits, look_logits = model(seen)
        known = F.cross_entropy(look_logits[~noise], how[~noise])
        return F.cross_entropy(people_logits, who.masked_fill(noise, len(people()))) + known

    seconds = Run("identity", folder, steps, peak_rate=2e-3, seed=seed).fit({"identity": model}, loss_of)
    model.save(folder / "identity")
    return seconds, *held_out_accuracy(PictureClassifier.load(folder / "identity"), folder)


def held_out_accuracy(model: PictureClassifier, folder: Path) -> tuple[float, float]:
    """Returns the shares of right people and looks on renders, augmented, that training never used."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    pictures = load_pictures(folder, held_out=True)
    shown = torch.nonzero(pictures.subjects >= len(NOUNS))[:, 0]
    person, look = classes_of(pictures)
    found, how, _ = classify(model, distort(pictures.at(shown), generator))
    return (found == person[shown]).double().mean().item(), (how == look[shown]).double().mean().item()


def _noise(count: int, generator: torch.Generator) -> Tensor:
    """Returns noise (count, 3, 64, 64) of a random coarseness, all of one picture alike."""
    noise = torch.randn(count, 3, 16, 16, generator=generator)
    return F.interpolate(noise, size=64, mode="bilinear").clamp(-1, 1)


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    seconds, person, look = train(given.folder, steps=given.steps, batch=given.batch, seed=given.seed)
    print(f"{seconds:.0f} s, held-out renders: person {person:.1%}, look {look:.1%}")


if __name__ == "__main__":
    main()

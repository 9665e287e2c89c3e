"""What the training scripts of the embedded model learn from: pictures, what each shows and how, true captions.

A subject is a noun (0 to 47) or a person (from 48 on), a manner is a designer's style (0 to 4) or a look (from 5 on).
"""

# Axes: M pictures, B a batch of them, C captions.

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cpe.embedded.making.people import HELD_OUT
from cpe.embedded.people import LOOKS, all_people_captions, people
from cpe.embedded.subjects import NOUNS, STYLES, all_captions

NOUN_SHARE = 0.25  # of a batch; the others show people
ANY_NOUN, ANY_PERSON, ANY_MANNER = -1, -2, -1  # what a caption leaves open


@dataclass(frozen=True)
class Pictures:
    """Pictures with what they show.

    Attributes:
        pixels: (M, 3, 64, 64), eight bits; those of nouns come first.
        subjects: (M,).
        manners: (M,).
    """

    pixels: Tensor
    subjects: Tensor
    manners: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Returns indices (count,) of pictures drawn with putting back, `NOUN_SHARE` of them of nouns."""
        nouns = int((self.subjects < len(NOUNS)).sum())
        noun_count = round(count * NOUN_SHARE)
        chosen = torch.randint(nouns, (noun_count,), generator=generator)
        others = torch.randint(nouns, len(self.subjects), (count - noun_count,), generator=generator)
        return torch.cat([chosen, others])

    def at(self, indices: Tensor) -> Tensor:
        """Returns pictures (B, 3, 64, 64) in -1..1."""
        return self.pixels[indices].float() / 127.5 - 1.0


def load_pictures(folder: Path, *, held_out: bool = False) -> Pictures:
    """Returns the pictures of a folder.

    Args:
        folder: what `making.pictures` and `making.people` wrote to.
        held_out: the pictures of people that train nothing, in place of the others; nouns have none such.
    """
    drawn = np.load(folder / "people.npz")["pictures"]  # (P, L, N, 64, 64, 3)
    drawn = drawn[:, :, -HELD_OUT:] if held_out else drawn[:, :, :-HELD_OUT]
    count = drawn.shape[2]
    icons = [np.asarray(Image.open(folder / "pictures" / style / f"{noun}.png")) for noun in NOUNS for style in STYLES]
    pixels = np.concatenate([np.array(icons), drawn.reshape(-1, *drawn.shape[3:])])
    person = torch.arange(len(people())).repeat_interleave(len(LOOKS) * count)
    look = torch.arange(len(LOOKS)).repeat_interleave(count).repeat(len(people()))
    noun = torch.arange(len(NOUNS)).repeat_interleave(len(STYLES))
    style = torch.arange(len(STYLES)).repeat(len(NOUNS))
    return Pictures(
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
        torch.cat([noun, len(NOUNS) + person]),
        torch.cat([style, len(STYLES) + look]),
    )


def load_icons(folder: Path) -> Tensor:
    """Returns the pictures of nouns alone, (noun, style, 3, 64, 64) in -1..1."""
    rows = torch.from_numpy(_icons(folder)).unflatten(0, (len(NOUNS), len(STYLES)))
    return rows.permute(0, 1, 4, 2, 3).float() / 127.5 - 1.0


def _icons(folder: Path) -> np.ndarray:
    """Returns the pictures of nouns, (noun · style, 64, 64, 3) in eight bits."""
    files = [folder / "pictures" / style / f"{noun}.png" for noun in NOUNS for style in STYLES]
    return np.array([np.asarray(Image.open(file)) for file in files])


@dataclass(frozen=True)
class Captions:
    """Every caption, with what a picture must show for it to be true.

    Attributes:
        texts: C of them.
        subjects: (C,), or `ANY_NOUN` or `ANY_PERSON`.
        manners: (C,), or `ANY_MANNER`.
    """

    texts: list[str]
    subjects: Tensor
    manners: Tensor

    def true_of(self, rows: Tensor, subjects: Tensor, manners: Tensor) -> Tensor:
        """Returns which captions are true of which pictures, (captions, pictures).

        Args:
            rows: captions, as indices (captions,).
            subjects: of the pictures, (pictures,).
            manners: of the pictures, (pictures,).
        """
        said, how = self.subjects[rows][:, None], self.manners[rows][:, None]
        noun = subjects < len(NOUNS)
        fits = (said == subjects) | ((said == ANY_NOUN) & noun) | ((said == ANY_PERSON) & ~noun)
        return fits & ((how == ANY_MANNER) | (how == manners))


class Matches:
    """Draws, for captions, pictures of which they are true."""

    def __init__(self, pictures: Pictures, captions: Captions) -> None:
        self._pictures, self._captions = pictures, captions
        self._found: dict[tuple[int, int], Tensor] = {}

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Returns indices (B,) of one picture a caption, given as indices (B,)."""
        share = torch.rand(len(rows), generator=generator).tolist()
        chosen = []
        for row, part in zip(rows.tolist(), share, strict=True):
            fitting = self._of(row)
            chosen.append(fitting[int(part * len(fitting))])
        return torch.stack(chosen)

    def _of(self, row: int) -> Tensor:
        key = int(self._captions.subjects[row]), int(self._captions.manners[row])
        if key not in self._found:
            true = self._captions.true_of(torch.tensor([row]), self._pictures.subjects, self._pictures.manners)
            self._found[key] = torch.nonzero(true[0])[:, 0]
        return self._found[key]


def load_captions() -> Captions:
    """Returns the captions of nouns, then those of people."""
    of_nouns = list(all_captions())
    of_people = [
        (text, ANY_PERSON if person < 0 else len(NOUNS) + person, ANY_MANNER if look < 0 else len(STYLES) + look)
        for text, person, look in all_people_captions()
    ]
    texts, subjects, manners = zip(*of_nouns, *of_people, strict=True)
    return Captions(list(texts), torch.tensor(subjects), torch.tensor(manners))

"""Reference pictures: a folder of them, and the mean and covariance of their features, kept so that they are seen once.

The covariance divides by N − 1, as clean-fid, pytorch-fid and torch-fidelity do.
"""

# Axes: N pictures, B pictures of a batch, D features.

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cpe.metrics.pictures import as_rgb
from cpe.metrics.score import Features, as_matrix
from wording.files import whole
from wording.foreign import told

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ROWS_AT_ONCE = 512
ASYMMETRY = 1e-5  # of a covariance that was kept in float32, as a share of its largest entry
NAMED_AT_MOST = 10


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of the features of reference pictures.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64.
        count: pictures behind them; None where the file does not say.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int | None


def statistics_of(features: Features | Iterable[Features], *, argument: str = "features") -> Statistics:
    """Returns the statistics of features that come batch by batch; memory does not grow with their number.

    They are the same bit for bit however the features are cut into batches, and as exact as those of all features at
    once: blocks of equal size are centred on their own and then joined.

    Args:
        features: one matrix (N, D), perhaps mapped from a file, or batches (B, D) of it; at least 2 pictures.
        argument: what messages call them.

    Raises:
        ValueError: fewer than 2 pictures, features that are not finite, or batches of different widths.

    Source: Chan, Golub and LeVeque, The American Statistician 37, 1983: the pairwise update.
    """
    count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    batches: Any = _slices(features) if getattr(features, "ndim", 0) == 2 else features
    for block in _blocks(batches, argument):
        if not count:
            mean, scatter = np.zeros(block.shape[1]), np.zeros((block.shape[1], block.shape[1]))
        total = count + len(block)
        block_mean = block.mean(axis=0)
        apart, centred = block_mean - mean, block - block_mean  # (D,) and (B, D)
        scatter += centred.T @ centred
        scatter += np.outer(apart * (count * len(block) / total), apart)
        mean += apart * (len(block) / total)
        count = total
    if count < 2:
        raise ValueError(f"{argument} needs at least 2 picture(s), got {count}; add pictures")
    return Statistics(mean, (scatter + scatter.T) / (2 * (count - 1)), count)


def load_statistics(path: Path) -> Statistics:
    """Reads statistics: `mu` and `sigma` of an .npz as clean-fid and pytorch-fid write it, or our .safetensors.

    No pickled objects are read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, lacks an array, or holds something that is no mean and covariance.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no reference statistics {path}")
    names = ("mean", "covariance") if path.suffix == ".safetensors" else ("mu", "sigma")
    try:
        held = load_file(path) if path.suffix == ".safetensors" else _load_npz(path, names)
    except (SafetensorError, BadZipFile, zlib.error, OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged, or no file of statistics ({told(error)}); fetch or compute it again"
        ) from None
    if missing := [name for name in names if name not in held]:
        raise ValueError(f"{path} lacks {missing[0]!r}; give mean and covariance of features, not features")
    mean, covariance = (held[name] for name in names)
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path} must hold a mean (D,) and a covariance (D, D), got {mean.shape}, {covariance.shape}")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path} must hold finite numbers, it does not; compute it again")
    if np.abs(covariance - covariance.T).max() > ASYMMETRY * np.abs(covariance).max():
        raise ValueError(f"{path} must hold a covariance, its {names[1]} is not symmetric; compute it again")
    return Statistics(mean, covariance, int(held["count"].item()) if "count" in held else None)


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Writes statistics as .safetensors: mean, covariance and, where it is known, count.

    Raises:
        ValueError: another suffix, by which the file could not be read again.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path.name}; give it that suffix")
    arrays = {"mean": statistics.mean, "covariance": np.ascontiguousarray(statistics.covariance)}
    if statistics.count is not None:
        arrays["count"] = np.array([statistics.count], dtype=np.int64)
    with whole(path) as beside:
        save_file(arrays, beside)


def folder_pictures(path: Path) -> Iterator[Image.Image]:
    """Returns an iterator over a folder's pictures in RGB, those of its folders too, in the order of their paths.

    All are read once before the first is given, so that a damaged one is known before hours of looking at the others.

    Args:
        path: folder of .png, .jpg, .jpeg and .webp files; others, and hidden ones, are passed over.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no picture in it, or some that cannot be read; all of them are counted, the first ten named.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no folder of reference pictures {path}")
    files = sorted(
        each
        for each in path.rglob("*")
        if each.suffix.lower() in PICTURES and not each.name.startswith(".") and each.is_file()
    )
    if not files:
        raise ValueError(f"{path} has no pictures; put {', '.join(PICTURES)} files there")
    unreadable = []
    for file in files:
        try:
            _read(file)
        except Exception:  # decoders fail in too many ways to name
            unreadable.append(str(file.relative_to(path)))
    if unreadable:
        more = f" and {len(unreadable) - NAMED_AT_MOST} more" if len(unreadable) > NAMED_AT_MOST else ""
        raise ValueError(
            f"{path}: {len(unreadable)} of {len(files)} pictures cannot be read: "
            f"{', '.join(unreadable[:NAMED_AT_MOST])}{more}; fetch them again or take them out"
        )
    return map(_read, files)


def _read(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return as_rgb(picture)


def _load_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray]:
    with path.open("rb") as file:
        opened = np.load(file, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array and no names")
        return {name: opened[name] for name in names if name in opened.files}


def _slices(features: Any) -> Iterator[Features]:
    """Yields a matrix some rows at a time, so that no more of it is in memory in double precision."""
    return (features[start : start + ROWS_AT_ONCE] for start in range(0, len(features), ROWS_AT_ONCE))


def _blocks(batches: Iterable[Features], argument: str) -> Iterator[NDArray[np.float64]]:
    """Yields the same rows in blocks of `ROWS_AT_ONCE`; the last one may have fewer."""
    waiting: list[NDArray[np.float64]] = []
    rows = seen = 0
    for batch in batches:
        matrix = as_matrix(batch, argument, first=seen)
        seen += len(matrix)
        if waiting and matrix.shape[1] != waiting[0].shape[1]:
            raise ValueError(
                f"batches need the same features, got widths {waiting[0].shape[1]} and {matrix.shape[1]}; "
                "use one extractor"
            )
        waiting.append(matrix)
        rows += len(matrix)
        if rows >= ROWS_AT_ONCE:
            joined = np.concatenate(waiting)
            full = rows - rows % ROWS_AT_ONCE
            for start in range(0, full, ROWS_AT_ONCE):
                yield joined[start : start + ROWS_AT_ONCE]
            waiting, rows = [joined[full:]], rows - full
    if rows:
        yield np.concatenate(waiting)

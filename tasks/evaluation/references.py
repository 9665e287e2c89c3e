"""Real pictures that generated ones are compared with: the user's statistics, folder or table of pictures."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from artifacts.hashing import content_hash, file_hash, folder_hash
from cpe.metrics.pictures import READING
from cpe.metrics.reference import Statistics, folder_pictures, load_statistics, save_statistics, statistics_of
from cpe.observers.base import Observer
from tasks.evaluation.look import read_picture
from tasks.here.places import Places
from wording.foreign import told

PICTURES_AT_ONCE = 64
STATISTICS = (".npz", ".safetensors")


def reference_path(places: Places, name: str) -> Path | None:
    """Returns where a set's real pictures are, in the data folder; None if there are none.

    NAME-reference.npz or .safetensors (statistics), .parquet (a table with the column "path"), or such a folder.
    """
    for suffix in (*STATISTICS, ".parquet", ""):
        path = places.data / f"{name}-reference{suffix}"
        if path.is_dir() if not suffix else path.is_file():
            return path
    return None


def reference_statistics(places: Places, name: str, observer: Observer) -> tuple[Statistics, str] | None:
    """Returns mean and covariance of a set's real pictures in an observer's features, and a hash of what they are of.

    Statistics of pictures are computed once and kept in the work folder.

    Raises:
        ValueError: the statistics, the table or a picture cannot be read.
    """
    path = reference_path(places, name)
    if path is None:
        return None
    if path.suffix in STATISTICS:
        return load_statistics(path), file_hash(path)
    pictures = _named_pictures(path) if path.is_file() else None
    shown = folder_hash(path) if pictures is None else [file_hash(each) for each in pictures]
    of = content_hash([shown, observer.identity, READING])
    kept = places.work / "references" / f"{of[:24]}.safetensors"
    if not kept.is_file():
        opened = folder_pictures(path) if pictures is None else map(read_picture, pictures)

        def features() -> Iterator:
            while batch := list(islice(opened, PICTURES_AT_ONCE)):
                yield observer.look(batch, [""] * len(batch))[observer.name]

        kept.parent.mkdir(parents=True, exist_ok=True)
        save_statistics(statistics_of(features()), kept)
    return load_statistics(kept), of


def _named_pictures(path: Path) -> list[Path]:
    """Returns the pictures that a Parquet table names, relative to itself."""
    try:
        names = pq.read_table(path, columns=["path"])["path"].to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no table with the column 'path' ({told(error)}); write one row a picture"
        ) from None
    pictures = [path.parent / str(name) for name in names]
    for name, picture in zip(names, pictures, strict=True):
        if not picture.is_file():
            raise ValueError(f"{path} names {name!r}, and there is no such file beside it; correct the table")
    return pictures

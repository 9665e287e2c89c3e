"""Generation: the evaluation's pictures in shards, before and after erasing, from the same seeds.

A shard is a few hundred pictures of one set and one artifact. Its address covers what determines its pictures and
nothing else, so lists that evaluate alike share the untouched model's pictures, and a change of one set leaves the
others' alone.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from artifacts.disk import write_whole
from artifacts.hashing import content_hash, file_hash
from artifacts.tables import IMAGES, write_table
from cpe.evaluation.pictures import EvaluationSet, PictureRow
from tasks.attacks.search import Hunt, found_text, hunt
from tasks.here.places import Places
from tasks.here.progress import progress
from tasks.plan import Plan
from tasks.train import gates_of_bundle


@dataclass(frozen=True)
class Shard:
    """Some pictures of one set.

    Attributes:
        of: the set.
        rows: what is drawn, in order; the picture of row n is the file `file_name(n)`.
        address: hash of everything that determines the pictures.
    """

    of: EvaluationSet
    rows: list[PictureRow]
    address: str

    @property
    def key(self) -> str:
        """Where the store holds it."""
        return f"pictures/{self.address}"


def file_name(index: int) -> str:
    """Returns the name of a shard's picture."""
    return f"{index:06d}.png"


def video_name(index: int, each: int) -> str:
    """Returns the name of the video that a shard's picture is a frame of, of which so many frames each are kept."""
    return f"{index // each * each:06d}.mp4"


def shards(plan: Plan, bundle: str | None) -> Iterator[Shard]:
    """Yields the evaluation's shards, set by set; `bundle` None is the untouched model."""
    for each in plan.sets:
        for rows in each.shards(plan.profile):
            determined_by: dict[str, Any] = {
                "base": plan.fingerprint,
                "drawing": plan.profile.drawing,
                "pictures": [row.determined_by for row in rows],
                "bundle": bundle,
            }
            if each.search:
                determined_by["found"] = [_hunt(plan, each, row).address for row in rows]
            yield Shard(each, rows, content_hash(determined_by)[:24])


def _hunt(plan: Plan, each: EvaluationSet, row: PictureRow) -> Hunt:
    """Returns the search that learned what is drawn for a row."""
    return hunt(plan, each.search, row.concept or "", row.start or 0, each.steps)


def draw_pictures(places: Places, plan: Plan, bundle: str | None, part: int = 0, parts: int = 1) -> list[str]:
    """Draws the evaluation's pictures that the store lacks, shard by shard.

    A stopped run goes on where it was: whole pictures of the shard in hand are kept, damaged ones drawn again.

    Args:
        places: where pictures are stored.
        plan: the list made ready.
        bundle: gates to erase with; None draws the untouched model.
        part: of the shards, from 0: every `parts`-th one.
        parts: how many workers share the drawing.

    Returns:
        The part's addresses, in the order of `shards`.
    """
    store = places.store()
    todo = (shard for shard in islice(shards(plan, bundle), part, None, parts) if not store.has(shard.key))
    first = next(todo, None)
    if first is not None:
        mine = islice(shards(plan, bundle), part, None, parts)
        counts = [
            (len(s.rows), len(s.rows) if store.has(s.key) else _pictures(_recorded(_unfinished(places, s)[1])))
            for s in mine
        ]
        total, there = (sum(column) for column in zip(*counts, strict=True))
        with (
            artist(places, plan, bundle) as pipe,
            progress(f"drawing {'after' if bundle else 'before'}", total, "picture", initial=there) as done,
        ):
            for shard in chain([first], todo):
                draw_shard(places, plan, bundle, shard, pipe, done)
            done.complete()
    return [shard.address for shard in islice(shards(plan, bundle), part, None, parts)]


@contextmanager
def artist(places: Places, plan: Plan, bundle: str | None) -> Iterator[Any]:
    """Yields the base model's pipeline, with the bundle's gates attached."""
    from cpe.methods.erased import Erased

    pipe = places.loaded(plan.concepts.base_model)
    if bundle is None:
        yield pipe
        return
    with Erased.load(gates_of_bundle(places, bundle)).attached(pipe):
        yield pipe


def draw_shard(
    places: Places, plan: Plan, bundle: str | None, shard: Shard, pipe: Any, done: Callable[[int], Any] | None = None
) -> None:
    """Draws what is missing of one shard and stores it; two processes never draw the same one at once."""
    from cpe.models.drawing import PictureJob, generate
    from cpe.models.videos import can_write, write_video

    folder, record = _unfinished(places, shard)
    with places.locked(f"pictures-{shard.address}"):
        if places.store().has(shard.key):
            return
        folder.mkdir(parents=True, exist_ok=True)
        drawn = _intact(folder, record)
        texts = [found_text(places, _hunt(plan, shard.of, row)) if shard.of.search else None for row in shard.rows]
        jobs = [
            PictureJob(
                file_name(index), row.prompt, row.seed, row.guidance_scale, row.negative_prompt, texts[index], row.frame
            )
            for index, row in enumerate(shard.rows)
            if file_name(index) not in drawn
        ]

        def keep(name: str, save: Callable[[Path], Any]) -> None:
            part = folder / f"{name}.part"
            save(part)
            drawn[name] = file_hash(part)
            part.replace(folder / name)
            with record.open("a") as file:
                file.write(_lines({name: drawn[name]}))

        def keep_video(job: PictureJob, frames: Sequence[Any]) -> None:
            name = video_name(int(Path(job.picture_id).stem), len(plan.profile.kept))
            if name not in drawn and can_write():
                keep(name, lambda part: write_video(part, frames, plan.profile.frames_per_second))

        for job, picture in generate(pipe, jobs, plan.profile, progress=done, videos=keep_video):
            # Packed lightly: the device waits for it.
            keep(job.picture_id, partial(picture.save, format="PNG", compress_level=1))
        _store_shard(places, plan, bundle, shard, folder, drawn)
        shutil.rmtree(folder)
        record.unlink(missing_ok=True)


def salvage_shard(places: Places, shard: Shard) -> None:
    """Takes a damaged shard out of the store and keeps its whole pictures, so that only the others are drawn again."""
    folder, record = _unfinished(places, shard)
    with places.locked(f"pictures-{shard.address}"):
        folder.mkdir(parents=True, exist_ok=True)
        saved = places.store().salvage(shard.key, folder)
        record.write_text(_lines({name: sha256 for name, sha256 in saved.items() if name.endswith((".png", ".mp4"))}))


def _unfinished(places: Places, shard: Shard) -> tuple[Path, Path]:
    """Returns the folder of a shard in the making, and the record of its pictures that are whole."""
    folder = places.work / "drawing" / shard.address
    return folder, folder.with_suffix(".jsonl")


def _recorded(record: Path) -> dict[str, str]:
    """Returns file name and hash of the pictures that a record holds; none if there is no record."""
    recorded: dict[str, str] = {}
    if record.is_file():
        for line in record.read_text().splitlines():
            try:
                name, sha256 = json.loads(line)
            except ValueError:  # cut by a kill; its picture is drawn again
                continue
            recorded[name] = sha256
    return recorded


def _pictures(names: Iterable[str]) -> int:
    return sum(name.endswith(".png") for name in names)


def _intact(folder: Path, record: Path) -> dict[str, str]:
    """Returns file name and hash of the pictures of an unfinished shard that are whole, and removes all else."""
    intact = {
        name: sha256
        for name, sha256 in _recorded(record).items()
        if (folder / name).is_file() and file_hash(folder / name) == sha256
    }
    for path in folder.iterdir():
        if path.name not in intact:
            path.unlink()
    write_whole(record, _lines(intact))
    return intact


def _lines(pictures: Mapping[str, str]) -> str:
    """Returns a record's lines, one a whole picture: its file name and hash."""
    return "".join(json.dumps([name, sha256]) + "\n" for name, sha256 in pictures.items())


def _store_shard(
    places: Places, plan: Plan, bundle: str | None, shard: Shard, folder: Path, drawn: dict[str, str]
) -> None:
    images = [
        {
            "path": file_name(index),
            "prompt": row.prompt,
            "seed": row.seed,
            "guidance_scale": row.guidance_scale,
            "negative_prompt": row.negative_prompt,
            "base_model": plan.concepts.base_model,
            "bundle": bundle,
            "sha256": drawn[file_name(index)],
        }
        for index, row in enumerate(shard.rows)
    ]
    write_table(folder / "images.parquet", images, IMAGES)
    manifest = {"format": 2, "drawing": plan.profile.drawing, "bundle": bundle, "base": plan.fingerprint}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    places.store().put(shard.key, folder)

"""Generation: the evaluation's pictures, before and after erasing, from the same seeds."""

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from PIL import Image
from prefect import task

from artifacts.hashing import content_hash, file_hash
from artifacts.tables import IMAGES, PROMPTS, write_table
from cpe.prompts import EvaluationPrompt
from tasks.places import Places
from tasks.prepare import Plan
from tasks.progress import progress
from tasks.train import bundle_folder


def pictures_address(plan: Plan, bundle: str | None) -> str:
    """Returns the address of a set of pictures: everything that determines them."""
    determined_by = {
        "base": plan.fingerprint,
        "profile": plan.profile.model_dump(exclude={"batch"}),
        "prompts": [vars(row) for row in plan.evaluation()],
        "seeds": plan.concepts.evaluation.seeds,
        "bundle": bundle,
    }
    return content_hash(determined_by)[:24]


@task(retries=1)
def draw_pictures(plan: Plan, bundle: str | None) -> str:
    """Draws every evaluation prompt with every seed and stores the pictures as one artifact.

    A stopped run goes on where it was: pictures already drawn are kept.

    Args:
        plan: the list made ready.
        bundle: gates to erase with; None draws the untouched model.

    Returns:
        The pictures' address.
    """
    places = Places.from_environment()
    address = pictures_address(plan, bundle)
    if places.store().has(f"pictures/{address}"):
        return address
    folder = places.work / "drawing" / address
    folder.mkdir(parents=True, exist_ok=True)
    rows = plan.evaluation()
    phase = "after" if bundle else "before"
    _draw_missing(places, plan, bundle, rows, folder, f"drawing {phase}")
    images = [
        {
            "image_id": number,
            "prompt_id": row.prompt_id,
            "seed": seed,
            "phase": phase,
            "path": f"{number}.png",
            "profile": plan.profile.name,
            "base_model": plan.concepts.base_model,
            "bundle": bundle,
            "sha256": file_hash(folder / f"{number}.png"),
        }
        for number, row, seed in _numbered(plan, rows)
    ]
    write_table(folder / "images.parquet", images, IMAGES)
    write_table(folder / "prompts.parquet", [vars(row) for row in rows], PROMPTS)
    manifest = {"format": 1, "profile": plan.profile.model_dump(), "bundle": bundle, "base": plan.fingerprint}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    places.store().put(f"pictures/{address}", folder)
    shutil.rmtree(folder)
    return address


def _draw_missing(
    places: Places, plan: Plan, bundle: str | None, rows: list[EvaluationPrompt], folder: Path, label: str
) -> None:
    from cpe.eraser import Eraser
    from cpe.generation import PictureJob, generate

    jobs = [PictureJob(number, row.prompt, seed) for number, row, seed in _numbered(plan, rows)]
    missing = [job for job in jobs if not _is_picture(folder / f"{job.picture_id}.png")]
    if not missing:
        return
    pipe = places.loaded(plan.concepts.base_model)
    erasing: Any = nullcontext()
    if bundle:
        erasing = Eraser.load(bundle_folder(places, bundle)).attached(pipe)
    with erasing, progress(label, len(jobs), "picture", initial=len(jobs) - len(missing)) as done:
        for job, picture in generate(pipe, missing, plan.profile):
            part = folder / f"{job.picture_id}.part"
            picture.save(part, format="PNG")
            part.replace(folder / f"{job.picture_id}.png")
            done()


def _numbered(plan: Plan, rows: list[EvaluationPrompt]) -> Iterator[tuple[str, EvaluationPrompt, int]]:
    """Yields (picture number, prompt row, seed)."""
    seeds = plan.concepts.evaluation.seeds
    for index, row in enumerate(rows):
        for seed in range(seeds):
            yield f"{index * seeds + seed:06d}", row, seed


def _is_picture(path: Path) -> bool:
    """Whether a whole picture lies there."""
    try:
        with Image.open(path) as picture:
            picture.verify()
    except (OSError, SyntaxError):
        return False
    return True

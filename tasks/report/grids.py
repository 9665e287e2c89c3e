"""The report's pictures: some of each role, and the kept ones that moved most, before erasing and after."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter

from artifacts.report import page
from artifacts.tables import PICTURES, iter_rows
from cpe.terms.domains import domain_of
from tasks.draw import Shard, shards
from tasks.evaluation.look import pictures_folder
from tasks.here.places import Places
from tasks.plan import Plan
from wording.figures import number

GRID_SEEDS = 3
GRID_ROWS = {"erased": 24, "kept": 12}
GRID_PIXELS = 128


def grid_of(places: Places, plan: Plan, stored: Path, role: str) -> page.Grid:
    """Returns some concepts' pictures before and after; each concept shows another template."""
    concepts = [gate.concept for gate in plan.gates] if role == "erased" else list(plan.concepts.kept)
    shown = concepts[: GRID_ROWS[role]]
    template_of = {name: index % len(plan.concepts.evaluation.templates) for index, name in enumerate(shown)}
    drawn: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in shown}
    for row in iter_rows(stored / "pictures.parquet", PICTURES):
        if row["set"] == role and template_of.get(row["concept"]) == row["template"]:
            found = drawn[row["concept"]].setdefault(row["phase"], [])
            if len(found) < GRID_SEEDS:
                found.append(row)
    grid_rows = []
    by_address = {shard.address: shard for bundle in (None, plan.bundle) for shard in shards(plan, bundle)}
    for concept, phases in drawn.items():
        pictures = {
            phase: [
                thumbnail(pictures_folder(places, plan, row["bundle"], by_address[row["shard"]]) / row["path"], plan)
                for row in rows
            ]
            for phase, rows in phases.items()
        }
        grid_rows.append(page.GridRow(concept, phases["before"][0]["prompt"], pictures["before"], pictures["after"]))
    first = next(iter(drawn.values()), {"before": []})["before"]
    columns = [_column(row, by_address[row["shard"]]) for row in first]
    note = "The same prompts and seeds before and after."
    if len(shown) < len(concepts):
        note += f" The first {len(shown)} of {len(concepts)} {role} concepts are shown; all are measured."
    if domain_of(plan.concepts.domain).covered:
        note += " Pictures are blurred."
    return page.Grid(role.capitalize(), columns, grid_rows, note)


def _column(row: dict[str, Any], shard: Shard) -> str:
    """Returns what stands above a picture."""
    frame = shard.rows[int(Path(row["path"]).stem)].frame
    return f"seed {row['seed']}" if frame is None else f"seed {row['seed']}, frame {frame}"


def thumbnail(path: Path, plan: Plan) -> bytes:
    """Returns a picture as PNG bytes, made smaller where it is large, and blurred where it may be explicit."""
    with Image.open(path) as opened:
        if max(opened.size) <= GRID_PIXELS and not domain_of(plan.concepts.domain).covered:
            return path.read_bytes()
        picture = opened.convert("RGB")
    picture.thumbnail((GRID_PIXELS, GRID_PIXELS))
    if domain_of(plan.concepts.domain).covered:
        picture = picture.filter(ImageFilter.GaussianBlur(picture.width / 10))
    packed = io.BytesIO()
    picture.save(packed, format="PNG")
    return packed.getvalue()


def moved_grid(places: Places, plan: Plan, rows: Sequence[dict[str, Any]]) -> page.Grid:
    """Returns the kept pictures that moved most, the farthest first."""
    by_address = {shard.address: shard for which in (None, plan.bundle) for shard in shards(plan, which)}

    def picture(row: dict[str, Any], phase: str) -> bytes:
        bundle = plan.bundle if phase == "after" else None
        return thumbnail(pictures_folder(places, plan, bundle, by_address[row[phase]]) / row["path"], plan)

    made = [
        page.GridRow(
            f"{row['concept'] or row['set']}, {number(row['distance'], 'distance')}",
            f"{row['prompt']} (seed {row['seed']}, PSNR {number(row['psnr'], 'dB')} dB)",
            [picture(row, "before")],
            [picture(row, "after")],
        )
        for row in rows
    ]
    note = f"Of all kept pictures the {len(made)} that moved most, the farthest first, with how far (0: not at all)."
    return page.Grid("Kept, moved most", ["the same seed"], made, note)

"""A comparison as one stored artifact: its table, its page, and the ways that it is of."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from artifacts.disk import write_whole
from artifacts.hashing import content_hash
from artifacts.report.comparison import render_comparison
from artifacts.stores.index import MANIFEST_NAME
from artifacts.tables import comparison_schema, read_table, write_table
from tasks.comparison.page import page_of
from tasks.comparison.rows import Measured, as_json, as_rows
from tasks.comparison.ways import COMPARES, KIND
from tasks.here.places import Places
from tasks.show import show_comparison

TABLE, PAGE = "comparison.parquet", "comparison.html"


def write_comparison(places: Places, measured: Sequence[Measured], seeds: int) -> dict[str, Any]:
    """Stores the comparison's table and page, copies both to the reports, and returns its figures.

    Args:
        places: where it is stored.
        measured: every way of erasing the same list.
        seeds: how many training seeds were asked for.
    """
    measured = sorted(measured, key=lambda each: (each.way.method, each.targets, each.way.seed))
    plan = max(measured, key=lambda each: each.targets).plan
    determined_by = {
        "compares": COMPARES,
        "list": plan.concepts.name,
        "list_hash": plan.listed_hash,
        "seeds": seeds,
        "ways": [{**each.way.model_dump(), "bundle": each.plan.bundle, "scores": each.scores} for each in measured],
    }
    address = content_hash(determined_by)[:24]
    if not places.holds(f"{KIND}/{address}"):
        rows, names = as_rows(places, measured)
        manifest = {
            "format": 1,
            **determined_by,
            "base_model": plan.concepts.base_model,
            "profile": plan.profile.name,
            "methods": sorted({each.way.method for each in measured}),
            "measures": names,
            "erased": sorted({each.targets for each in measured}),
            "finished_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        with places.scratch() as folder:
            write_table(folder / TABLE, rows, comparison_schema(names))
            (folder / PAGE).write_text(render_comparison(page_of(places, measured, rows, names, made=manifest)))
            (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1))
            places.store().put(f"{KIND}/{address}", folder)
    found = read_comparison(places, address)
    show_comparison(found)
    return found


def read_comparison(places: Places, address: str) -> dict[str, Any]:
    """Returns a stored comparison for programs; its page and table are beside the reports afterwards.

    Raises:
        StoreError: it is not stored, or damaged.
    """
    folder = places.fetched(f"{KIND}/{address}")
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    rows = read_table(folder / TABLE, comparison_schema(manifest["measures"]))
    told = {key: manifest[key] for key in ("list", "list_hash", "base_model", "profile", "seeds", "finished_at")}
    return {
        **told,
        "address": address,
        "page": str(_beside_reports(places, folder / PAGE, manifest["list"], address)),
        "table": str(_beside_reports(places, folder / TABLE, manifest["list"], address)),
        "rows": as_json(rows, manifest["measures"]),
    }


def _beside_reports(places: Places, file: Path, name: str, address: str) -> Path:
    """Returns the copy of a comparison's file in the folder of reports, made if it is not there."""
    path = places.work / "reports" / f"compare-{name}-{address[:8]}{file.suffix}"
    if not path.is_file():
        write_whole(path, file.read_bytes())
    return path

"""The comparison's pictures: the same prompts and seeds by the untouched model and by every method."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts.report.comparison import Sheet, SheetRow
from artifacts.tables import PICTURES, iter_rows
from cpe.evaluation.pictures import ATTACK
from cpe.terms.domains import domain_of
from tasks.comparison.means import UNTOUCHED
from tasks.comparison.rows import Measured
from tasks.draw import shards
from tasks.evaluation.look import pictures_folder
from tasks.here.places import Places
from tasks.plan import Plan
from tasks.report.grids import thumbnail

ROWS = {"erased": 8, "kept": 8}
TITLES = {"erased": "Erased", "kept": "Kept", "attack": "Under attack"}

Row = Mapping[str, Any]


def sheets_of(places: Places, measured: Sequence[Measured]) -> list[Sheet]:
    """Returns some pictures of each role and one of each attack, of every method and the first of its training seeds.

    Where numbers erased differ, they are of what erases most.

    Args:
        places: where the pictures are.
        measured: by method and training seed.
    """
    shown: dict[str, Measured] = {}
    most = max(each.targets for each in measured)
    for each in measured:
        if each.targets == most:
            shown.setdefault(each.way.method, each)
    first = next(iter(shown.values()))
    chosen = {row["picture_id"]: row for row in _chosen(first.plan, _rows(places, first, "before"))}
    columns = {UNTOUCHED: _pictures(places, first, "before", chosen)}
    columns |= {name: _pictures(places, each, "after", chosen) for name, each in shown.items()}
    note = "Pictures are blurred." if domain_of(first.plan.concepts.domain).covered else ""
    sheets = []
    for kind, title in TITLES.items():
        own = [row for row in chosen.values() if _kind(row) == kind]
        rows = [
            SheetRow(_label(row), row["prompt"], [found[row["picture_id"]] for found in columns.values()])
            for row in own
        ]
        sheets += [Sheet(title, list(columns), rows, note)] if rows else []
    return sheets


def _rows(places: Places, each: Measured, phase: str) -> Iterator[Row]:
    path: Path = places.fetched(f"scores/{each.scores}") / "pictures.parquet"
    return (row for row in iter_rows(path, PICTURES) if row["phase"] == phase)


def _kind(row: Row) -> str:
    return "attack" if row["set"].startswith(ATTACK) else str(row["set"])


def _label(row: Row) -> str:
    return f"{row['set'].removeprefix(ATTACK)}: {row['concept']}" if _kind(row) == "attack" else str(row["concept"])


def _chosen(plan: Plan, rows: Iterator[Row]) -> Iterator[Row]:
    """Yields the pictures that are shown: each concept in another template, each attack on another concept.

    Attacks that learn are left out: each method has pictures of another text.
    """
    names = {"erased": [gate.concept for gate in plan.gates], "kept": list(plan.concepts.kept)}
    templates = len(plan.concepts.evaluation.templates)
    wanted: dict[tuple[str, str], int | None] = {
        (role, name): place % templates for role, most in ROWS.items() for place, name in enumerate(names[role][:most])
    }
    attacks = [each for each in plan.sets if each.name.startswith(ATTACK) and not each.search]
    wanted |= {(each.name, each.concepts[place % len(each.concepts)]): None for place, each in enumerate(attacks)}
    for row in rows:
        key = (row["set"], row["concept"])
        if key in wanted and wanted[key] in (None, row["template"]):
            del wanted[key]
            yield row


def _pictures(places: Places, each: Measured, phase: str, chosen: Mapping[str, Row]) -> dict[str, bytes]:
    """Returns the chosen pictures of one model, as PNG bytes by their ids."""
    bundle = each.plan.bundle if phase == "after" else None
    by_address = {shard.address: shard for shard in shards(each.plan, bundle)}
    return {
        row["picture_id"]: thumbnail(
            pictures_folder(places, each.plan, bundle, by_address[row["shard"]]) / row["path"], each.plan
        )
        for row in _rows(places, each, phase)
        if row["picture_id"] in chosen
    }

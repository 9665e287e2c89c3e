"""The page of a comparison: what it says, as plain values, and how it is written; no outside resource, no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from artifacts.report.curves import Curve, curves
from artifacts.report.html import in_utc, interval, render
from artifacts.report.tradeoff import Point, tradeoff
from wording.figures import is_known, number

Better = Literal["lower", "higher", ""]


@dataclass(frozen=True)
class Column:
    """What a column says: its unit as `number` has it, or "seconds" or "bytes", and which way is better, if any."""

    label: str
    unit: str = "share"
    better: Better = ""


@dataclass(frozen=True)
class Cell:
    """A value, the ends of its 95 % interval, and the values of the training seeds where there are several."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float] = ()


@dataclass(frozen=True)
class Line:
    """One way of erasing, one cell a column; `control` is the untouched model, which nothing is compared with."""

    name: str
    about: str
    cells: Sequence[Cell]
    control: bool = False


@dataclass(frozen=True)
class Table:
    """Ways of erasing below each other."""

    title: str
    about: str
    columns: Sequence[Column]
    lines: Sequence[Line]

    def __post_init__(self) -> None:
        for line in self.lines:
            if len(line.cells) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r} expects {len(self.columns)} cells a line, got {len(line.cells)} for "
                    f"{line.name!r}; give one a column"
                )


@dataclass(frozen=True)
class SheetRow:
    """Pictures of one prompt and seed as PNG bytes, one a column."""

    label: str
    prompt: str
    pictures: Sequence[bytes]


@dataclass(frozen=True)
class Sheet:
    """Pictures of several models beside each other; `columns` names the models."""

    title: str
    columns: Sequence[str]
    rows: Sequence[SheetRow]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything the page says.

    Attributes:
        lead: what was compared, in sentences.
        facts: what holds for all, by name.
        tables: the first is the summary.
        details: tables that are folded up.
        points: each way's erased and kept accuracy, for the chart; none where that was not measured.
        curves: each way's measure over how many it erases, by what is measured; empty where that does not differ.
        sheets: of pictures.
        repeat: what is needed to make it again, by name.
        notes: what a reader must know to read the figures rightly.
    """

    title: str
    list_name: str
    lead: Sequence[str]
    facts: Mapping[str, str]
    created_at: datetime
    tables: Sequence[Table]
    details: Sequence[Table] = ()
    points: Sequence[Point] = ()
    curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    sheets: Sequence[Sheet] = ()
    repeat: Mapping[str, Any]
    notes: Sequence[str] = ()


def render_comparison(comparison: Comparison) -> str:
    """Writes a comparison as one HTML page."""
    return render(
        "comparison.html.j2",
        comparison=comparison,
        created=in_utc(comparison.created_at),
        tables=[_shown(table, mark=True) for table in comparison.tables],
        details=[_shown(table, mark=False) for table in comparison.details],
        sweeps={label: curves(shown) for label, shown in comparison.curves.items() if shown},
        chart=tradeoff(comparison.points) if comparison.points else None,
    )


def _shown(table: Table, *, mark: bool) -> dict[str, Any]:
    best = [_best(table, place) if mark else None for place in range(len(table.columns))]
    lines = [
        {
            "name": line.name,
            "about": line.about,
            "control": line.control,
            "cells": [
                {
                    "text": number(cell.value, column.unit),
                    "interval": interval(cell, column.unit),
                    "seeds": _range(cell.seeds, column.unit),
                    "best": not line.control and first is not None and number(cell.value, column.unit) == first,
                }
                for cell, column, first in zip(line.cells, table.columns, best, strict=True)
            ],
        }
        for line in table.lines
    ]
    return {"title": table.title, "about": table.about, "columns": table.columns, "lines": lines}


def _best(table: Table, place: int) -> str | None:
    """Returns a column's best value as it is shown, so that all that look the same are marked; None for no best."""
    column = table.columns[place]
    known = [line.cells[place].value for line in table.lines if not line.control]
    values = [value for value in known if is_known(value)]
    if not column.better or len(values) < 2:
        return None
    return number(min(values) if column.better == "lower" else max(values), column.unit)


def _range(values: Sequence[float], unit: str) -> str:
    """The least and the most of several training seeds' values."""
    if len(values) < 2:
        return ""
    least, most = (number(pick(values), unit, bare=True) for pick in (min, max))
    return least if least == most else f"{least} to {most}"

"""The report of one run: one HTML page that needs nothing outside itself and no script.

The page is a pure function of plain values. Numbers that are missing (None or not finite) are shown as a
dash; every text is escaped; pictures are embedded.
"""

import base64
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from artifacts.report.charts import end_losses, heat_table, loss_charts, loss_parts
from artifacts.report.page import Change, ConceptRow, Figure, Report, Unit
from wording.figures import MISSING, duration, is_known, number, power


class Bounded(Protocol):
    """What has an interval."""

    @property
    def low(self) -> float | None:
        """The lower end."""

    @property
    def high(self) -> float | None:
        """The upper end."""


def render_report(report: Report) -> str:
    """Writes the report as one HTML page.

    Args:
        report: plain values; texts may hold any characters.

    Returns:
        The page: no outside resource, no script, light and dark.
    """
    answers = [figure for role in ("erased", "kept") for figure in report.summary if figure.answers == role]
    return render(
        "report.html.j2",
        report=report,
        created=in_utc(report.created_at),
        headlines=[_headline(figure) for figure in answers],
        erased=_worst_first([row for row in report.concepts if row.role == "erased"]),
        kept=_worst_first([row for row in report.concepts if row.role == "kept"]),
        heat_maps=[[heat_table(each.gate_names, row) for row in each.prompts] for each in report.heat_maps],
        charts=loss_charts(report.losses),
        losses=end_losses(report.losses),
        loss_parts=loss_parts(report.losses),
    )


def render(template: str, **values: Any) -> str:
    """Fills a template; every text is escaped."""
    html = _templates().get_template(template).render(missing=MISSING, **values)
    return html.encode(errors="replace").decode()  # half a surrogate pair, as a list may hold, has no UTF-8


@cache
def _templates() -> Environment:
    """Returns the templates, compiled once a process."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, interval=interval, difference=_difference, power=power, duration=duration,
        source=_source, plain=_plain, position=_position,
    )  # fmt: skip
    return environment


def in_utc(moment: datetime) -> datetime:
    """A moment in UTC; one without a zone is taken for that."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def interval(change: Bounded, unit: str = "share") -> str:
    """The interval as "(0.9–2.8)", or nothing if it is not known."""
    if not (is_known(change.low) and is_known(change.high)):
        return ""
    return f"({number(change.low, unit, bare=True)}–{number(change.high, unit, bare=True)})"


def _difference(change: Change, unit: Unit = "share") -> str:
    """After minus before, signed; differences of shares are in percentage points (pp)."""
    if not (is_known(change.before) and is_known(change.after)):
        return MISSING
    text = number(change.after - change.before, unit, bare=True)
    sign = "" if text.startswith("−") or not text.strip("0.") else "+"
    return sign + text + (" pp" if unit == "share" else "")


def _headline(figure: Figure) -> dict[str, str]:
    before, after = (number(value, figure.unit) for value in (figure.change.before, figure.change.after))
    if after == MISSING:
        verb = "was not measured"
    elif before == MISSING:
        verb = "is"
    elif before == after:
        verb = "stayed at"
    else:
        verb = "fell from" if (figure.change.after or 0) < (figure.change.before or 0) else "rose from"
    return {"label": figure.label, "verb": verb, "before": before, "after": after}


def _worst_first(rows: Sequence[ConceptRow]) -> list[ConceptRow]:
    """Erased concepts by accuracy left, kept ones by accuracy lost; unknown last."""

    def badness(row: ConceptRow) -> float:
        before, after = row.accuracy.before, row.accuracy.after
        if not is_known(after):
            return -math.inf
        if row.role == "erased":
            return after
        return (before if is_known(before) else 1.0) - after

    return sorted(rows, key=badness, reverse=True)


def _source(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def _plain(value: Any) -> str:
    """A setting as a reader writes it: text as it is, a flat list in one line, anything else as JSON."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and not any(isinstance(item, list | tuple | dict) for item in value):
        return ", ".join(str(item) for item in value)
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _position(share: float | None, width: float) -> str:
    """Where a share falls on a line of that width."""
    return f"{min(max(share, 0.0), 1.0) * width:.1f}" if is_known(share) else "0"

"""The page's pieces of HTML, from plain values; every text is escaped."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from artifacts.report.charts import heat_table
from artifacts.report.html import render
from tasks.page.prompts import png
from tasks.page.tables import Table
from wording.figures import duration, number
from wording.foreign import printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from tasks.page.bench import Heat


def message(text: str = "", *, wrong: bool = False) -> str:
    """Returns a message; one of something wrong is told at once to who hears the page."""
    if not text:
        return ""
    kind = ' class="cpe-told wrong" role="alert"' if wrong else ' class="cpe-told" role="status"'
    return f"<p{kind}>{_lines(text)}</p>"


def pictures(shown: Sequence[tuple[str, "Image", float]], prompt: str) -> str:
    """Returns pictures side by side: each one's name, itself, and the seconds that it took."""
    figures = "".join(
        f'<figure><img src="data:image/png;base64,{base64.b64encode(png(picture)).decode()}"'
        f' alt="{escape(f"{name}: {prompt}")}"><figcaption><strong>{escape(name)}</strong>'
        f" <span>{duration(seconds)}</span></figcaption></figure>"
        for name, picture, seconds in shown
    )
    return f'<div class="cpe-pictures" style="--pictures: {len(shown)}">{figures}</div>'


def heat(found: "Heat | None") -> str:
    """Returns which token opened which gate, as a run's report shows it."""
    if found is None:
        return '<p class="cpe-note">No gates here: nothing erases, or the method has none.</p>'
    (prompt,) = found.map.prompts
    table = render("heat.html.j2", table=heat_table(found.map.gate_names, prompt))
    more = f" Shown are the {len(found.map.gate_names)} of {found.gates} gates that open widest."
    return (
        f'<div class="cpe-heat"><h3>What opened the gates</h3>{table}'
        '<p class="cpe-note">closed 0 <span class="ramp"></span> 1 open · '
        '<span class="key"></span>widest open at this token: its residual alone is added.'
        f"{more if found.gates > len(found.map.gate_names) else ''}"
        f" At these strengths residuals add {number(found.energy)} of the energy of the prompt's keys and values."
        "</p></div>"
    )


def strengths(given: Mapping[str, float]) -> str:
    """Returns which gates are not as trained."""
    words = ", ".join(f"{name} × {value:g}" for name, value in given.items() if value != 1)
    return f'<p class="cpe-note">Set: {escape(words)}</p>' if words else ""


def tables(found: Sequence[Table]) -> str:
    """Returns tables below each other; wide ones are scrolled within themselves."""
    return "".join(_table(each) for each in found)


def _table(table: Table) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td{_kind(cell)}>{escape(printable(cell))}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    note = f'<p class="cpe-note">{_lines(table.note)}</p>' if table.note else ""
    title = escape(table.title)
    return (
        f'<section class="cpe-table"><h3>{title}</h3><div class="scroll" tabindex="0" role="region"'
        f' aria-label="{title}"><table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div>{note}'
        "</section>"
    )


def _kind(cell: str) -> str:
    if cell == "MISSED":
        return ' class="bad"'
    return ' class="num"' if cell[:1].isdigit() and len(cell) < 20 else ""


def _lines(text: str) -> str:
    return "<br>".join(escape(line) for line in printable(text).split("\n"))

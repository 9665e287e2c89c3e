"""The page of a comparison: best of a column marked as it is shown, labels apart, whatever texts hold."""

import io
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from PIL import Image

from artifacts.report.comparison import (
    Cell,
    Column,
    Comparison,
    Line,
    Sheet,
    SheetRow,
    Table,
    _shown,
    render_comparison,
)
from artifacts.report.curves import Curve, curves
from artifacts.report.html import render
from artifacts.report.ticks import APART
from artifacts.report.tradeoff import BOTTOM, LEFT, RIGHT, TOP, Point, tradeoff

SCRIPT = "<script>alert(1)</script>"
METHODS = ("advunlearn", "cpe", "esd", "mace", "rece", "speed", "uce")


def picture(shade: int) -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 120, 200)).save(packed, format="PNG")
    return packed.getvalue()


def summary() -> Table:
    columns = [
        Column("Erased, still recognised", better="lower"),
        Column("Kept, recognised", better="higher"),
        Column("Training", "seconds", "lower"),
        Column("Size", "bytes"),
    ]
    lines = [Line("untouched", "control", [Cell(0.997), Cell(1.0), Cell(), Cell()], control=True)]
    for place, name in enumerate(METHODS):
        erased = Cell(0.01 * place, 0.008 * place, 0.02 + 0.012 * place, (0.0, 0.02 * place))
        kept = Cell(0.99 - 0.004 * place, 0.97 - 0.004 * place, 1.0)
        about = SCRIPT if name == "esd" else "emoji, 3 seeds"
        lines.append(Line(name, about, [erased, kept, Cell(10.0**place), Cell(36_000 * 10**place)]))
    return Table("Erased, kept and cost", "One line a method.", columns, lines)


def points() -> list[Point]:
    return [
        Point(name, (0.01 + 0.001 * place, 0.0, 0.04), (0.99 - 0.0005 * place, 0.97, 1.0))
        for place, name in enumerate(METHODS)
    ]


def page() -> Comparison:
    columns = ("untouched", *METHODS)
    rows = [SheetRow(f"rose {SCRIPT}", "a picture of a rose", [picture(30 * n) for n in range(len(columns))])] * 3
    return Comparison(
        title=f"Ways of erasing {SCRIPT}",
        list_name="emoji",
        lead=["7 ways of erasing 10 concepts."],
        facts={"Base model": "embedded", "Erased": "rose"},
        created_at=datetime(2026, 11, 27, tzinfo=UTC),
        tables=[summary()],
        details=[summary()],
        points=points(),
        sheets=[Sheet("Erased", columns, rows, "One of each.")],
        repeat={"command": "cpe compare emoji", "ways": [{"method": "cpe"}]},
        notes=["Intervals take pictures of one concept as going together."],
    )


def test_the_page_needs_nothing_else_and_no_text_becomes_markup() -> None:
    html = render_comparison(page())
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("<img") == 3 * 8
    for text in (*METHODS, "1.0 s", "36.0 MB", "seeds 0.0 to 2.0", "(0.8–3.2)"):
        assert text in html


def test_all_that_look_like_the_best_of_a_column_are_marked_and_the_control_never_is() -> None:
    columns = [Column("left", better="lower"), Column("kept", better="higher"), Column("neither")]
    rows = {"a": (0.0101, 0.9, 0.1), "b": (0.0103, 0.99, 0.2), "c": (0.5, None, 0.3)}
    lines = [Line("untouched", "", [Cell(0.0), Cell(1.0), Cell(0.0)], control=True)]
    lines += [Line(name, "", [Cell(value) for value in values]) for name, values in rows.items()]
    shown = _shown(Table("t", "", columns, lines), mark=True)["lines"]
    marked = {(line["name"], place) for line in shown for place, cell in enumerate(line["cells"]) if cell["best"]}
    assert marked == {("a", 0), ("b", 0), ("b", 1)}
    alone = _shown(Table("t", "", columns, lines[:2]), mark=True)["lines"]
    assert not any(cell["best"] for line in alone for cell in line["cells"]), "nothing to be better than"


def test_a_line_has_one_cell_a_column() -> None:
    with pytest.raises(ValueError, match=r"expects 1 cells a line, got 2 for 'cpe'"):
        Table("t", "", [Column("left")], [Line("cpe", "", [Cell(), Cell()])])


@pytest.mark.parametrize(
    "chosen",
    [points(), points()[:1], [Point("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), Point("all", (1, 1, 1), (0, 0, 0))]],
)
def test_every_point_lies_in_the_chart_and_labels_are_apart(chosen: list[Point]) -> None:
    chart = tradeoff(chosen)
    for mark in chart["marks"]:
        assert LEFT <= mark["x_range"][0] <= mark["x"] <= mark["x_range"][1] <= RIGHT + 1e-6
        assert TOP - 1e-6 <= mark["y_range"][0] <= mark["y"] <= mark["y_range"][1] <= BOTTOM + 1e-6
    heights = sorted(mark["label_y"] for mark in chart["marks"])
    assert all(second - first >= APART - 1e-6 for first, second in pairwise(heights))
    labels = [label for _, label in (*chart["x_ticks"], *chart["y_ticks"])]
    assert labels[0] in ("0 %", "0.0 %")
    assert labels[-1] in ("100 %", "100.0 %")


def test_curves_lie_on_a_logarithmic_axis_within_the_frame_and_say_their_names():
    import xml.etree.ElementTree as ElementTree

    shown = [
        Curve("cpe", [(1, (0.99, 0.98, 1.0)), (10, (0.98, 0.97, 0.99)), (100, (0.9, 0.85, 0.93))]),
        Curve("uce", [(1, (0.97, 0.95, 0.99)), (100, (0.2, 0.1, 0.3))]),
    ]
    chart = curves(shown)
    left, right, top, bottom, _, _ = chart["frame"]
    first, second = (line["marks"] for line in chart["lines"])
    assert [round(x, 3) for x, *_ in first] == [left, (left + right) / 2, right]
    for x, y, low, high in [*first, *second]:
        assert left <= x <= right
        assert top <= high <= y <= low <= bottom, "more is further up"
    assert first[0][1] < first[2][1] < second[1][1]
    assert chart["y_ticks"][-1] == (top, "100 %")
    drawn = render("curves.svg.j2", sweep=chart, label="Kept & recognised")
    svg = ElementTree.fromstring(drawn)
    assert svg.get("aria-label") == "Kept & recognised"
    assert len(svg.findall("{*}polyline")) == 2


def test_one_number_alone_still_gives_a_chart():
    chart = curves([Curve("cpe", [(5, (0.5, 0.5, 0.5)), (5, (0.5, 0.5, 0.5))])])
    assert all(isinstance(x, float) for x, *_ in chart["lines"][0]["marks"])

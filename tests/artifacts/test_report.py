"""The report is one self-contained, well-formed page that shows what it was given, and nothing it was not."""

import base64
import itertools
import math
import re
from dataclasses import replace

import pytest

from artifacts.report.html import render_report
from artifacts.report.page import (
    Bar,
    Change,
    ConceptRow,
    Figure,
    Grid,
    GridRow,
    HeatMap,
    HeatPrompt,
    LossCurve,
    Published,
    StyleRow,
)
from helpers.report import SCRIPT, Page, empty_report, full_report, picture


@pytest.fixture(scope="module")
def html():
    return render_report(full_report())


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.mark.parametrize("report", [empty_report(), full_report()], ids=["empty", "full"])
def test_page_needs_nothing_outside_itself(report):
    html = render_report(report)
    page = Page(html)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert not page.all("script")
    assert not page.all("link")
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in page.all("img"))
    targets = [attributes["href"] for attributes in page.all("a")]
    assert targets == [f"#{attributes['id']}" for attributes in page.all("section")]


def test_rendering_is_a_pure_function(html):
    assert render_report(full_report()) == html


def test_every_text_is_escaped():
    hostile = SCRIPT + "\"'&"
    pictures = [picture(1)]
    report = replace(
        full_report(),
        **dict.fromkeys(["title", "list_name", "base_model", "profile", "bundle", "model", "version"], hostile),
        settings={hostile: hostile},
        bars=[Bar(hostile, hostile, 0.1, True)],
        summary=[Figure(hostile, Change(0.1, 0.2, count=1), answers="kept")],
        concepts=[ConceptRow(hostile, "erased", Change(), hostile), ConceptRow(hostile, "kept", Change())],
        styles=[StyleRow(hostile, Change(), Change())],
        grids=[Grid(hostile, [hostile], [GridRow(hostile, hostile, pictures, pictures)], hostile)],
        heat_maps=[HeatMap([hostile], [HeatPrompt(hostile, [hostile], [[0.5]])])],
        losses=[LossCurve(hostile, "erase", [[(0, 1.0), (1, 0.5)]])],
        seconds={hostile: 1.0},
        repeat={hostile: hostile, "nested": {hostile: [hostile]}},
        notes=[hostile],
        published=[Published(hostile, hostile, {hostile: hostile})],
    )
    html = render_report(report)
    assert "<script" not in html
    assert not Page(html).all("script")
    assert Page(html).text.count(SCRIPT) > 25


def test_every_picture_appears_once_and_is_described(html, page):
    for value in range(1, 7):
        assert html.count(base64.b64encode(picture(value)).decode()) == 1
    described = [attributes["alt"] for attributes in page.all("img")]
    assert len(described) == 6
    assert "After erasing: a tiger, seed 2" in described


def test_numbers_are_shown_in_their_units(page):
    for text in ("1.7 % (0.9–2.8)", "−93.1 pp", "27.40 (27.20–27.60)", "−0.05", "0.0046", "+0.0015", "13 min 33 s"):
        assert text in page.text
    assert "4 March 2025, 05:06 UTC" in page.text


def test_first_sentences_say_what_was_erased_and_whether_it_worked(page):
    lead = page.text[: page.text.index("Erased:")]
    assert "2 concepts erased, 2 others watched." in lead
    assert re.search(r"Accuracy on erased concepts fell from 94\.8 % to 1\.7 %", lead)
    assert re.search(r"Accuracy on kept concepts fell from 92\.5 % to 91\.8 %", lead)
    assert "1 of 2 quality bars fails ; this version is the champion all the same" in lead


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(0.5, 0.6, "rose from 50.0 % to 60.0 %"), (0.5, 0.5, "stayed at 50.0 %"), (None, 0.5, "is 50.0 %"),
     (0.5, None, "was not measured")],
)  # fmt: skip
def test_the_first_sentence_fits_the_change(before, after, words):
    report = replace(empty_report(), summary=[Figure("Accuracy", Change(before, after), answers="erased")])
    assert f"Accuracy {words}" in Page(render_report(report)).text


def test_status_follows_promotion_and_bars():
    passed = replace(empty_report(), bars=[Bar("H0", "at least 90.0 %", 0.93, True)])
    assert "The quality bar holds ; this version is the champion" in Page(render_report(passed)).text
    refused = replace(passed, promoted=False, bars=[Bar("H0", "at least 90.0 %", 0.8, False)])
    assert "1 of 1 quality bar fails ; this version was not promoted" in Page(render_report(refused)).text


def test_every_concept_and_style_has_a_row_and_the_worst_comes_first(page):
    table = page.text[page.text.index("most left first") : page.text.rindex("What opened the gates")]
    order = [table.index(name) for name in ("shark", "tiger", "lion", "whale", "noto")]
    assert order == sorted(order)
    assert "cat" in table
    assert "96.1 %" in table


def test_missing_values_are_dashes():
    unknown = Change(None, math.nan, None, math.inf, 0)
    report = replace(
        full_report(),
        bars=[Bar("FID", "at most 9.0", None, False, "distance")],
        summary=[Figure("FID", unknown, "distance")],
        concepts=[ConceptRow("tiger", "erased", unknown), ConceptRow("lion", "kept", unknown)],
        styles=[StyleRow("noto", unknown, unknown)],
        losses=[LossCurve("tiger", "erase", [[(0, 0.1), (1, math.nan)]]), LossCurve("tiger", "anchor", [[]])],
        seconds={"score": math.nan},
    )
    html = render_report(report)
    assert not re.search(r"\b(None|nan|inf)\b", html)
    assert Page(html).text.count("–") > 10


def test_openness_is_told_by_gate_and_token_with_padding_as_one_column(page):
    cells = {attributes["title"]: attributes for attributes in page.all("td") if "title" in attributes}
    assert len(cells) == 2 * 5
    assert "wins" in cells["tiger at tiger: 0.97"]["class"]
    assert "wins" not in cells["tiger at ⟨end⟩: 0.12"]["class"]
    assert "wins" in cells["shark at ⟨end⟩: 0.13"]["class"]
    assert "tiger at ⟨pad⟩ ×2: 0.31" in cells
    assert "shark at ⟨start⟩: 0.00" in cells
    assert "0.04" in page.text


def test_only_one_gate_wins_a_token():
    heat_map = HeatMap(["tiger", "shark"], [HeatPrompt("a", ["a"], [[0.5], [0.5]])])
    assert render_report(replace(empty_report(), heat_maps=[heat_map])).count('class="wins"') == 1


def test_losses_are_drawn_by_stage_and_told_at_the_end(page):
    paths = page.all("path")
    assert [path["d"].count("M") for path in paths] == [2, 2, 1, 2]
    assert "highest at the end: shark, 4.5 × 10⁻³" in page.text
    for text in ("1.2 × 10⁻³", "5.0 × 10⁻¹", "2.0 × 10⁻⁸", "stage 1", "training step"):
        assert text in page.text
    numbers = [float(number) for path in paths for number in re.findall(r"[\d.]+", path["d"])]
    assert all(0 <= number <= 360 for number in numbers)


def test_a_curve_breaks_where_a_loss_has_no_logarithm():
    stage = [(0, 0.1), (1, math.inf), (2, 0.2), (3, 0.1), (4, 0.0), (5, 0.3), (6, math.nan)]
    page = Page(render_report(replace(empty_report(), losses=[LossCurve("tiger", "erase", [stage])])))
    (path,) = page.all("path")
    assert re.sub(r"[\d.]+ [\d.]+", "", path["d"]) == "MMLM"


def test_headings_descend_one_level_at_a_time(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_tables_have_captions_and_scoped_headers(page):
    assert len(page.all("table")) == len(page.all("caption"))
    assert all("scope" in attributes for attributes in page.all("th"))


def test_sections_without_content_are_left_out():
    page = Page(render_report(empty_report()))
    assert not page.all("section")
    assert not page.all("table")


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expects 2 pictures a row, got 1 after"):
        Grid("g", ["seed 1", "seed 2"], [GridRow("tiger", "a tiger", [], [picture(1)])])
    with pytest.raises(ValueError, match="must be PNG"):
        Grid("g", ["seed 1"], [GridRow("tiger", "a tiger", [], [b"GIF89a"])])
    with pytest.raises(ValueError, match="2 rows"):
        HeatMap(["tiger", "shark"], [HeatPrompt("a", ["a"], [[0.5]])])

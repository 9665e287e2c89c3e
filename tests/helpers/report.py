"""A report with everything in it, and how to read one."""

import io
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

from PIL import Image

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
    Report,
    StyleRow,
)

SCRIPT = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects elements and text, and fails on a tag that is not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def picture(value):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 255 - value, value // 2)).save(stream, "PNG")
    return stream.getvalue()


def empty_report():
    return Report(
        title="Animals",
        list_name="animals",
        base_model="small",
        profile="quick",
        settings={"steps": 20},
        created_at=datetime(2025, 3, 4, 5, 6, tzinfo=UTC),
        bundle="b-123",
        model="cpe-animals",
        version="7",
        promoted=True,
    )


def full_report():
    gates = ["tiger", "shark"]
    concepts = [
        ConceptRow("tiger", "erased", Change(0.95, 0.017, 0.009, 0.028, 40), "cat"),
        ConceptRow("shark", "erased", Change(0.9, 0.05, 0.01, 0.1, 40)),
        ConceptRow("lion", "kept", Change(0.9, 0.875, 0.8, 0.95, 40)),
        ConceptRow("whale", "kept", Change(0.9, 0.91, 0.85, 0.97, 20)),
    ]
    grid = Grid(
        "Erased concepts",
        ["seed 1", "seed 2"],
        [
            GridRow("tiger", "a tiger", [picture(1), picture(2)], [picture(3), picture(4)]),
            GridRow("shark", SCRIPT, [], [picture(5), picture(6)]),
        ],
    )
    tokens = ["<|startoftext|>", "a</w>", "tiger</w>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"]
    openness = [[0.0, 0.11, 0.97, 0.12, 0.31, 0.29], [0.0, 0.04, 0.02, 0.13, 0.14, 0.08]]
    return replace(
        empty_report(),
        bars=[Bar("Erased", "at most 3.0 %", 0.017, True), Bar("FID", "at most 9.0", 11.42, False, "distance")],
        summary=[
            Figure("Accuracy on erased concepts", Change(0.948, 0.017, 0.009, 0.028, 1000), answers="erased"),
            Figure("Accuracy on kept concepts", Change(0.925, 0.918, 0.9, 0.94, 2400), "share", "higher", "kept"),
            Figure("CLIP score", Change(27.45, 27.4, 27.2, 27.6, 2400), "points", "higher"),
            Figure("KID", Change(0.0031, 0.0046, 0.004, 0.0052, 2400), "distance"),
        ],
        concepts=concepts,
        styles=[StyleRow("noto", Change(0.9, 0.89, 0.8, 0.95, 100), Change(0.97, 0.961, 0.93, 0.99, 100))],
        grids=[grid],
        heat_maps=[HeatMap(gates, [HeatPrompt("a tiger", tokens, openness)])],
        losses=[
            LossCurve("tiger", "erase", [[(0, 0.01), (10, 0.001)], [(20, 0.00123)]]),
            LossCurve("shark", "erase", [[(0, 0.02), (10, 0.002)], [(20, 0.0045)]]),
            LossCurve("tiger", "adversarial", [[], [(20, 0.5)]]),
            LossCurve("tiger", "anchor", [[(0, 0.0), (10, 1e-7)], [(20, 2e-8)]]),
        ],
        seconds={"train gates": 812.9, "score": 5.25},
        repeat={"command": "cpe run animals.yaml", "config": {"stages": 5}, "seeds": [1, 2]},
        notes=["No FID: fewer than 2 pictures."],
        published=[Published("CPE", "50 celebrities", {"H0": "0.936"}), Published("MACE", "celebrities", {"H": "0.9"})],
    )

"""The report of one run: one HTML page that needs nothing outside itself and no script.

The page is a pure function of plain values. Numbers that are missing (None or not finite) are shown as a
dash; every text is escaped; pictures are embedded.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeGuard

from jinja2 import Environment, FileSystemLoader, StrictUndefined

Unit = Literal["share", "points", "distance"]
Role = Literal["erased", "kept"]
LossPart = Literal["erase", "adversarial", "anchor"]

MISSING = "–"
LOSS_PARTS: tuple[LossPart, ...] = ("erase", "adversarial", "anchor")
TOKEN_NAMES = {"<|startoftext|>": "⟨start⟩", "<|endoftext|>": "⟨end⟩"}
POINTS_PER_STAGE = 120
# The loss charts' plotting area, in units of their view box (360 wide, 224 high).
LEFT, RIGHT, TOP, BOTTOM = 42.0, 352.0, 22.0, 178.0
_PNG = b"\x89PNG\r\n\x1a\n"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Change:
    """One measure before and after erasing; `low` and `high` bound the 95 % bootstrap interval of `after`."""

    before: float | None = None
    after: float | None = None
    low: float | None = None
    high: float | None = None
    count: int = 0


@dataclass(frozen=True)
class Bar:
    """A quality bar: its bound in words ("at most 3.0 %"), the value measured, and whether it holds."""

    name: str
    bound: str
    value: float | None
    holds: bool
    unit: Unit = "share"


@dataclass(frozen=True)
class Figure:
    """A measure over the whole run.

    Attributes:
        answers: "erased" if this figure says whether erasing worked, "kept" if it says whether anything else
            broke; the page's first sentences are made of these two.
    """

    label: str
    change: Change
    unit: Unit = "share"
    better: Literal["lower", "higher"] = "lower"
    answers: Role | None = None


@dataclass(frozen=True)
class ConceptRow:
    """Accuracy of one concept (shares); `turned_into` is the most frequent other class after erasing."""

    name: str
    role: Role
    accuracy: Change
    turned_into: str | None = None


@dataclass(frozen=True)
class StyleRow:
    """Accuracy of nouns drawn in one style, and of the style itself (shares)."""

    name: str
    noun: Change
    style: Change


@dataclass(frozen=True)
class GridRow:
    """Pictures of one prompt as PNG bytes, one a column; `before` or `after` may be empty."""

    label: str
    prompt: str
    before: Sequence[bytes]
    after: Sequence[bytes]


@dataclass(frozen=True)
class Grid:
    """Pictures before and after erasing; `columns` names what differs within a row ("seed 1")."""

    title: str
    columns: Sequence[str]
    rows: Sequence[GridRow]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            for side, pictures in (("before", row.before), ("after", row.after)):
                if len(pictures) not in (0, len(self.columns)):
                    raise ValueError(
                        f"grid {self.title!r} expects {len(self.columns)} pictures a row, got {len(pictures)} "
                        f"{side} for {row.prompt!r}; give one a column, or none"
                    )
                if any(not picture.startswith(_PNG) for picture in pictures):
                    raise ValueError(f"pictures {side} for {row.prompt!r} must be PNG files' bytes; encode them first")


@dataclass(frozen=True)
class HeatPrompt:
    """How far each gate opens at each token of one prompt: `openness` is gates × tokens, 0 to 1."""

    prompt: str
    tokens: Sequence[str]
    openness: Sequence[Sequence[float]]


@dataclass(frozen=True)
class HeatMap:
    """Openness of some gates over some prompts."""

    gate_names: Sequence[str]
    prompts: Sequence[HeatPrompt]

    def __post_init__(self) -> None:
        for row in self.prompts:
            widths = [len(values) for values in row.openness]
            if widths != [len(row.tokens)] * len(self.gate_names):
                raise ValueError(
                    f"openness of {row.prompt!r} must have {len(self.gate_names)} rows (gates) of "
                    f"{len(row.tokens)} values (tokens), got rows of {widths}; cut both to the same tokens"
                )


@dataclass(frozen=True)
class LossCurve:
    """One loss of one concept: a list of (step, loss) a stage; steps are counted through all stages."""

    concept: str
    part: LossPart
    stages: Sequence[Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Published:
    """Figures that others published, as text by name."""

    source: str
    profile: str
    figures: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the page says.

    Attributes:
        model, version: where the registry holds the bundle.
        promoted: whether this version carries the alias champion.
        seconds: wall-clock seconds by stage, in order.
        repeat: what is needed to run it again, by name; anything that JSON can hold.
        notes: what a reader must know to read the figures rightly.
    """

    title: str
    list_name: str
    base_model: str
    profile: str
    settings: Mapping[str, Any]
    created_at: datetime
    bundle: str
    model: str
    version: str
    promoted: bool
    bars: Sequence[Bar] = ()
    summary: Sequence[Figure] = ()
    concepts: Sequence[ConceptRow] = ()
    styles: Sequence[StyleRow] = ()
    grids: Sequence[Grid] = ()
    heat_maps: Sequence[HeatMap] = ()
    losses: Sequence[LossCurve] = ()
    seconds: Mapping[str, float] | None = None
    repeat: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    published: Sequence[Published] = ()


def render_report(report: Report) -> str:
    """Writes the report as one HTML page.

    Args:
        report: plain values; texts may hold any characters.

    Returns:
        The page: no outside resource, no script, light and dark.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, interval=_interval, difference=_difference, power=_power, duration=_duration,
        source=_source, plain=_plain, position=_position,
    )  # fmt: skip
    created = report.created_at
    created = created.replace(tzinfo=UTC) if created.tzinfo is None else created.astimezone(UTC)
    answers = [figure for role in ("erased", "kept") for figure in report.summary if figure.answers == role]
    return environment.get_template("report.html.j2").render(
        report=report,
        created=created,
        headlines=[_headline(figure) for figure in answers],
        erased=_worst_first([row for row in report.concepts if row.role == "erased"]),
        kept=_worst_first([row for row in report.concepts if row.role == "kept"]),
        heat_maps=[[_heat_table(each.gate_names, row) for row in each.prompts] for each in report.heat_maps],
        charts=_loss_charts(report.losses),
        losses=_end_losses(report.losses),
        loss_parts=LOSS_PARTS,
        missing=MISSING,
    )


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _number(value: float | None, unit: Unit = "share", *, bare: bool = False) -> str:
    """A value in its unit; `bare` leaves the percent sign out."""
    if not _known(value):
        return MISSING
    if unit == "share":
        text = f"{100 * value:.1f}"
    elif unit == "points":
        text = f"{value:.2f}"
    else:
        size = abs(value)
        text = f"{value:.{1 if size >= 10 else 2 if size >= 1 else 4}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−") + (" %" if unit == "share" and not bare else "")


def _interval(change: Change, unit: Unit = "share") -> str:
    """The interval as "(0.9–2.8)", or nothing if it is not known."""
    if not (_known(change.low) and _known(change.high)):
        return ""
    return f"({_number(change.low, unit, bare=True)}–{_number(change.high, unit, bare=True)})"


def _difference(change: Change, unit: Unit = "share") -> str:
    """After minus before, signed; differences of shares are in percentage points (pp)."""
    if not (_known(change.before) and _known(change.after)):
        return MISSING
    text = _number(change.after - change.before, unit, bare=True)
    sign = "" if text.startswith("−") or not text.strip("0.") else "+"
    return sign + text + (" pp" if unit == "share" else "")


def _headline(figure: Figure) -> dict[str, str]:
    before, after = (_number(value, figure.unit) for value in (figure.change.before, figure.change.after))
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
        if not _known(after):
            return -math.inf
        if row.role == "erased":
            return after
        return (before if _known(before) else 1.0) - after

    return sorted(rows, key=badness, reverse=True)


def _power(value: float | None) -> str:
    """A loss as "1.2 × 10⁻⁴"."""
    if not _known(value):
        return MISSING
    if value == 0:
        return "0"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def _duration(value: float) -> str:
    if not math.isfinite(value):
        return MISSING
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


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
    return f"{min(max(share, 0.0), 1.0) * width:.1f}" if _known(share) else "0"


def _heat_table(gate_names: Sequence[str], prompt: HeatPrompt) -> dict[str, Any]:
    """Tokens as readers know them, and each gate's cells as (openness, wins); padding is one column, its widest."""
    names = [TOKEN_NAMES.get(token, token.removesuffix("</w>")) for token in prompt.tokens]
    end = names.index("⟨end⟩") + 1 if "⟨end⟩" in names else len(names)
    padding = len(names) - end
    rows = [[*values[:end], *([max(values[end:])] if padding else [])] for values in prompt.openness]
    if padding:
        names = [*names[:end], f"⟨pad⟩ ×{padding}"]
    widest = [column.index(max(column)) for column in zip(*rows, strict=True)]
    return {
        "prompt": prompt.prompt,
        "tokens": names,
        "rows": [
            (gate, [(value, value >= 0.05 and number == first) for value, first in zip(values, widest, strict=True)])
            for number, (gate, values) in enumerate(zip(gate_names, rows, strict=True))
        ],
    }


def _last(curve: LossCurve) -> float | None:
    values = [loss for stage in curve.stages for _, loss in stage if math.isfinite(loss)]
    return values[-1] if values else None


def _end_losses(curves: Sequence[LossCurve]) -> dict[str, dict[str, float | None]]:
    """The last value of each loss, by concept and part."""
    table: dict[str, dict[str, float | None]] = {}
    for curve in curves:
        table.setdefault(curve.concept, dict.fromkeys(LOSS_PARTS))[curve.part] = _last(curve)
    return table


def _loss_charts(curves: Sequence[LossCurve]) -> list[dict[str, Any]]:
    """One chart a loss, all on the same steps: a thin line a concept, the highest at the end first named."""
    steps = [step for curve in curves for stage in curve.stages for step, _ in stage]
    if not steps:
        return []
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def across(step: float) -> float:
        return LEFT + (RIGHT - LEFT) * (step - first) / (last - first)

    starts: dict[int, int] = {}
    for curve in curves:
        for number, stage in enumerate(curve.stages, 1):
            if stage:
                starts[number] = min(starts.get(number, stage[0][0]), stage[0][0])
    edges = [across(starts[number]) for number in sorted(starts)] + [RIGHT]
    stages = [
        {"name": str(number), "x": edges[i], "middle": (edges[i] + edges[i + 1]) / 2}
        for i, number in enumerate(sorted(starts))
    ]
    stride = _round_step((last - first) / 4)
    ticks = [(across(step), f"{step:,}") for step in range(-(-first // stride) * stride, last + 1, stride)]
    charts = []
    for part in LOSS_PARTS:
        own = [curve for curve in curves if curve.part == part]
        values = [loss for curve in own for stage in curve.stages for _, loss in stage if 0 < loss < math.inf]
        if not values:
            continue
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        high = max(high, low + 1)

        def down(loss: float, low: int = low, high: int = high) -> float:
            return BOTTOM - (BOTTOM - TOP) * (math.log10(loss) - low) / (high - low)

        paths = {curve.concept: _path(curve.stages, across, down) for curve in own}
        highest = max(own, key=lambda curve: _last(curve) or 0.0)
        decades = range(low, high + 1, max(1, -(-(high - low) // 6)))
        charts.append(
            {
                "part": part,
                "highest": highest.concept,
                "end": _last(highest),
                "paths": sorted(paths.items(), key=lambda item: item[0] == highest.concept),
                "stages": stages,
                "x_ticks": ticks,
                "y_ticks": [(down(10.0**k), f"10{str(k).translate(_SUPERSCRIPTS)}") for k in decades],
                "frame": (LEFT, RIGHT, TOP, BOTTOM),
            }
        )
    return charts


def _round_step(size: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 … that is not smaller."""
    decade = 10 ** max(0, math.floor(math.log10(max(size, 1))))
    return next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= size)


def _path(stages: Iterable[Sequence[tuple[int, float]]], across: Any, down: Any) -> str:
    """An SVG path through the points, broken between stages and where the loss has no logarithm."""
    words = []
    for stage in stages:
        stride = max(1, -(-len(stage) // POINTS_PER_STAGE))
        points = [*stage[::stride], *stage[-1:]]
        pen = "M"
        for step, loss in points:
            if 0 < loss < math.inf:
                words.append(f"{pen}{across(step):.1f} {down(loss):.1f}")
                pen = "L"
            else:
                pen = "M"
    return "".join(words)

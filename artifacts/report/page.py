"""What the report of a run says, as plain values; shapes that do not fit are refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from wording.figures import number

Unit = Literal["share", "points", "distance", "count"]
Role = Literal["erased", "kept"]

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Change:
    """One measure before and after erasing; `low` and `high` bound the 95 % interval of `after`."""

    before: float | None = None
    after: float | None = None
    low: float | None = None
    high: float | None = None
    count: int = 0


@dataclass(frozen=True)
class Bar:
    """A quality bar: its bound in words ("at most 3.0 %"), the value measured, and whether it holds.

    Attributes:
        note: why it does not hold, where that is not the value: too few pictures.
    """

    name: str
    bound: str
    value: float | None
    holds: bool
    unit: Unit = "share"
    note: str = ""

    @property
    def words(self) -> str:
        """The bar in one line."""
        return f"{self.name} {self.shown} ({self.bound}{'; ' if self.note else ''}{self.note})"

    @property
    def shown(self) -> str:
        """The value in its unit."""
        return "not measured" if self.value is None else number(self.value, self.unit)


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
    """Accuracy of one concept (shares); `turned_into` is the most frequent other class after erasing.

    Attributes:
        moved: how far its pictures are from the untouched ones, on the mean.
    """

    name: str
    role: Role
    accuracy: Change
    turned_into: str | None = None
    moved: float | None = None


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
    """One loss of one concept: a list of (step, loss) a stage; steps are counted through all stages.

    Attributes:
        part: which of the training's losses it is.
    """

    concept: str
    part: str
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
        why_not: what kept it from being promoted, a sentence each.
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
    why_not: Sequence[str] = ()
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

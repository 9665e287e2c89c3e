"""The comparison's page in figures: a line a method (and number erased), each the mean of its training seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from artifacts.report.comparison import Better, Cell, Column, Line, Table
from artifacts.report.curves import Curve
from artifacts.report.tradeoff import Point
from cpe.evaluation.pictures import ATTACK, CONTROL
from cpe.metrics.score import Score
from cpe.metrics.seeds import mean_over_seeds
from cpe.metrics.table import metrics

Row = Mapping[str, Any]
MAIN = {
    "erased": Column("Erased, still recognised", "share", "lower"),
    "kept": Column("Kept, recognised", "share", "higher"),
    "h0": Column("H0", "share", "higher"),
    "kept_distance": Column("Kept pictures moved", "distance", "lower"),
    "kept_psnr": Column("Kept, PSNR in dB", "points", "higher"),
}
COST = {
    "seconds": Column("Training", "seconds", "lower"),
    "bytes": Column("Size", "bytes", "lower"),
}
UNTOUCHED = "untouched"


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the table's rows by their method, and by how many they erase where that differs, in its order."""
    several = len({row["targets"] for row in rows}) > 1
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = f"{row['method']}, {row['targets']:,} erased" if several else row["method"]
        found.setdefault(name, []).append(row)
    return found


def mean_of(rows: Sequence[Row], name: str) -> Cell:
    """Returns one column's mean over a method's training seeds; empty where one of them was not measured."""
    values = [row[name] for row in rows if row.get(name) is not None]
    if len(values) < len(rows):
        return Cell()
    bounds = [(row.get(f"{name}_low"), row.get(f"{name}_high"), row.get(f"{name}_count") or 0) for row in rows]
    seeds = [Score(name, value, *bound, "") for value, bound in zip(values, bounds, strict=True)]
    mean = mean_over_seeds(seeds)
    return Cell(mean.value, mean.low, mean.high, values if len(values) > 1 else ())


def summary_of(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Returns what was erased, what was kept and what it cost."""
    shown = {name: column for name, column in MAIN.items() if name in names}
    several = max(len(own) for own in by_method(rows).values())
    means = f", the mean of up to {several} training seeds" if several > 1 else ""
    return Table(
        "Erased, kept and cost",
        f"One line a method{means}. Bold: the best of its column; where intervals overlap, chance may have chosen it.",
        [*shown.values(), *COST.values()],
        [_untouched(rows, [*shown, *COST]), *_lines(rows, [*shown, *COST])],
    )


def attacks_of(rows: Sequence[Row], names: Sequence[str]) -> Table | None:
    """Returns how often each attack brings an erased concept back; None without attacks."""
    shown = [name for name in names if name.startswith(ATTACK)]
    if not shown:
        return None
    columns = [Column(name.removeprefix(ATTACK), "share", "lower") for name in shown]
    about = (
        "Share of an attack's pictures that show the erased concept; the untouched model says how many could. Where an "
        "attack learned a text against each method, it drew all of those: its mean, and from least to most."
    )
    return Table("Attacks", about, columns, [_untouched(rows, shown), *_lines(rows, shown)])


def controls_of(rows: Sequence[Row], names: Sequence[str]) -> Table | None:
    """Returns how often attacks that learn find what was never erased; None without such attacks."""
    shown = [name for name in names if name.startswith(CONTROL)]
    if not shown:
        return None
    columns = [Column(name.removeprefix(CONTROL), "share", "higher") for name in shown]
    about = (
        "The same searches through each erased model, for kept concepts: an attack that finds little where nothing was "
        "erased says little where something was."
    )
    return Table("Controls of attacks", about, columns, [_untouched(rows, shown), *_lines(rows, shown)])


def seed_by_seed(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Returns the main figures of every training seed."""
    shown = {name: column for name, column in MAIN.items() if name in names} | COST
    lines = [
        Line(method, _seed(row), [mean_of([row], name) for name in shown])
        for method, own in by_method(rows).items()
        for row in own
    ]
    return Table("Seed by seed", "Every row of the table.", list(shown.values()), lines)


def others_of(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Returns every other measure."""
    shown = [name for name in names if name not in MAIN and not name.startswith((ATTACK, CONTROL))]
    units = {f"{role}_{each.name}": each.unit for each in metrics() for role in ("erased", "kept")}
    units |= {each.name: each.unit for each in metrics()}
    columns = [
        Column(
            name.replace("_", " "), units.get(name, "share" if name.endswith("accuracy") else "distance"), _better(name)
        )
        for name in shown
    ]
    lines = [_untouched(rows, shown), *_lines(rows, shown)]
    return Table("Other measures", "Means over training seeds.", columns, lines)


def points_of(rows: Sequence[Row], names: Sequence[str]) -> list[Point]:
    """Returns each method's place between erasing all and keeping all; none where one of the two was not measured.

    Where numbers erased differ, that is how it erases most.
    """
    found, most = [], max(row["targets"] for row in rows)
    for method, own in by_method([row for row in rows if row["targets"] == most]).items():
        erased, kept = (_bounds(mean_of(own, name)) for name in ("erased", "kept"))
        if erased and kept:
            found.append(Point(method, erased, kept))
    return found


def curves_of(rows: Sequence[Row], name: str) -> list[Curve]:
    """Returns a measure of each method over how many it erases; none where that does not differ."""
    methods: dict[str, list[tuple[int, tuple[float, float, float]]]] = {}
    for own in by_method(rows).values():
        if bounds := _bounds(mean_of(own, name)):
            methods.setdefault(own[0]["method"], []).append((own[0]["targets"], bounds))
    return [Curve(method, points) for method, points in methods.items() if len(points) > 1]


def _bounds(cell: Cell) -> tuple[float, float, float] | None:
    if cell.value is None:
        return None
    low, high = (cell.value if end is None else end for end in (cell.low, cell.high))
    return cell.value, low, high


def _better(name: str) -> Better:
    for each in metrics():
        for role in each.higher:
            if name in (each.name, f"{role}_{each.name}"):
                return "higher"
    return ""


def _lines(rows: Sequence[Row], names: Iterable[str]) -> list[Line]:
    shown = list(names)
    return [
        Line(method, _preset(own), [mean_of(own, name) for name in shown]) for method, own in by_method(rows).items()
    ]


def _untouched(rows: Sequence[Row], names: Iterable[str]) -> Line:
    """Returns the untouched model's line: the same for all, but for texts that attacks learned against each by itself.

    Of those it is the mean, with the values of all rows.
    """
    return Line(
        UNTOUCHED, "control", [_control([row.get(f"{name}_before") for row in rows]) for name in names], control=True
    )


def _control(values: Sequence[float | None]) -> Cell:
    there = [value for value in values if value is not None]
    if len(set(there)) < 2:
        return Cell(there[0] if there else None)
    return Cell(sum(there) / len(there), seeds=there)


def _preset(rows: Sequence[Row]) -> str:
    seeds = f"{len(rows)} seeds" if len(rows) > 1 else _seed(rows[0])
    return f"{rows[0]['preset']}, {seeds}"


def _seed(row: Row) -> str:
    return "any seed" if row["seed"] is None else f"seed {row['seed']}"

"""A list's results, bars, attacks and history as rows for a page: what `cpe results` and `cpe models` print."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from artifacts.registry.registry import ModelVersion
from artifacts.registry.versions import MODEL_PREFIX
from cpe.evaluation.pictures import ATTACK, CONTROL
from tasks.desk.versions import Comparison, compare
from tasks.here.places import Places
from tasks.page.shelf import Shelf
from tasks.register import latest_results
from wording.figures import MISSING, duration, number

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: above it.
        columns: names.
        rows: of cells.
        note: below it.
    """

    title: str
    columns: Row
    rows: Sequence[Row]
    note: str = ""


def lists_with_results(shelf: Shelf) -> list[str]:
    """Returns the names of the lists that have versions on the shelf, those of the newest first.

    Raises:
        RegistryError: the registry cannot be read.
    """
    return list(dict.fromkeys(each.name.removeprefix(MODEL_PREFIX) for each in shelf.versions()))


def tables_of(places: Places, name: str) -> list[Table]:
    """Returns the tables of one list: results, bars, attacks, history; what there is none of is left out.

    Args:
        places: where results and registry are.
        name: of the list.

    Raises:
        RegistryError: the registry cannot be read.
    """
    try:
        results = latest_results(places, name)
    except FileNotFoundError:
        measured = [Table("Results", ("",), [(f"no run of {name} has finished in this work folder",)])]
    else:
        measured = [_results(results), _bars(results), _attacks(results)]
    versions = places.registry().versions(MODEL_PREFIX + name)
    return [table for table in (*measured, _history(versions)) if table.rows]


def compared(places: Places, one: str, other: str) -> list[Table]:
    """Returns two versions' gates and metrics side by side, as `cpe models diff` prints them.

    Raises:
        RegistryError: there is no such version.
        StoreError: what a version was made of is not in the store.
    """
    found: Comparison = compare(places, one, other)
    columns = ("", *(f"{each.name}/{each.version}" for each in found.versions))
    gates = [(kind, ", ".join(names) or "none") for kind, names in found.gates.items()]
    metrics = [(name, *(number(value, unit) for value in values)) for name, unit, values in found.metrics]
    facts = [(name.replace("_", " "), *values) for name, values in found.facts.items()]
    note = "" if found.same_profile else "Of different profiles: not comparable."
    return [
        Table("Gates, from the first to the second", ("", "concepts"), gates),
        Table("Metrics", columns, metrics, note),
        Table("Versions", columns, facts),
    ]


def _results(results: dict[str, Any]) -> Table:
    rows = [_figure(each) for each in results["figures"] if not _is_attack(each)]
    spent = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in results["seconds"].items())
    standing = "champion" if results["champion"] else "; ".join(results["fell_short"]) or "another one is champion"
    note = f"{results['model']} version {results['version']} ({standing}). Time: {spent}."
    note += "".join(f" Not measured: {hole}" for hole in results["holes"])
    title = f"{results['list']} on {results['base_model']}, profile {results['profile']}"
    return Table(title, ("", "before", "after", "95 % interval", "pictures"), rows, note)


def _bars(results: dict[str, Any]) -> Table:
    rows = [
        (
            "holds" if bar["holds"] else "MISSED",
            bar["name"],
            bar["bound"],
            number(bar["value"], bar.get("unit", "share")) + (f" ({bar['note']})" if bar.get("note") else ""),
        )
        for bar in results["bars"]
    ]
    return Table("Bars", ("", "bar", "bound", "measured"), rows)


def _attacks(results: dict[str, Any]) -> Table:
    rows = [_figure(each) for each in results["figures"] if _is_attack(each)]
    return Table("Attacks", ("", "before", "after", "95 % interval", "pictures"), rows)


def _history(versions: Sequence[ModelVersion]) -> Table:
    columns = ("version", "standing", "created (UTC)", "erased", "erased accuracy", "kept accuracy", "H0", "why")
    return Table("History", columns, [_version(each) for each in versions])


def _version(version: ModelVersion) -> Row:
    tags, standing = version.tags, [*version.aliases, *(["rolled back"] if version.is_rolled_back else [])]
    reasons = ("rolled_back_reason", "lifted_reason", "promoted_reason", "fell_short")
    told = ("rolled back", "lifted", "promoted", "fell short")
    why = [
        f"{word}: {tags[key]}" for key, word in zip(reasons, told, strict=True) if tags.get(key, "nothing") != "nothing"
    ]
    figures = (_share(tags.get(name, "")) for name in ("erased_accuracy", "kept_accuracy", "h0"))
    created = f"{version.created_at:%Y-%m-%d %H:%M}"
    return (str(version.version), ", ".join(standing), created, tags.get("erased", ""), *figures, "; ".join(why))


def _figure(figure: dict[str, Any]) -> Row:
    unit = figure["unit"]
    low, high = (figure.get(each) for each in ("low", "high"))
    between = "" if low is None or high is None else f"{number(low, unit)} to {number(high, unit)}"
    values = (number(figure[when], unit) for when in ("before", "after"))
    return (figure["label"], *values, between, str(figure["count"]))


def _is_attack(figure: dict[str, Any]) -> bool:
    return any(f"set {prefix}" in figure["label"] for prefix in (ATTACK, CONTROL))


def _share(tag: str) -> str:
    return number(float(tag)) if tag[:1].isdigit() else tag or MISSING

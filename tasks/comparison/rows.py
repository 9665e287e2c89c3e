"""One way of erasing as a row of the comparison's table: its scores by what they measure, its cost, its size."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifacts.kinds.bundle import weights_file
from artifacts.stores.index import MANIFEST_NAME
from cpe.evaluation.pictures import ATTACK, CONTROL
from cpe.lists.comparison import Way
from tasks.figures import Scores, accuracy_metric, attack_metric
from tasks.here.places import Places
from tasks.plan import Plan

FIRST = ("erased", "kept", "h0")
IN_SETS = (f"set {ATTACK}", f"set {CONTROL}")


@dataclass(frozen=True)
class Measured:
    """A way of erasing that was gone.

    Attributes:
        way: of erasing.
        plan: the list made ready for it.
        scores: their address.
    """

    way: Way
    plan: Plan
    scores: str

    @property
    def targets(self) -> int:
        """How many concepts were erased."""
        return len(self.plan.concepts.targets)


@dataclass(frozen=True)
class Measure:
    """A score after erasing, its 95 % interval, on how many pictures, and the untouched model's on the same prompts."""

    value: float
    low: float | None
    high: float | None
    count: int
    before: float | None


def measures_of(scores: Scores, main: str, attacked: str) -> dict[str, Measure]:
    """Returns what was measured over whole sets, by name.

    "erased" and "kept" are the accuracy on the list's own concepts, "attack-NAME" that under an attack, "control-NAME"
    that on kept concepts that the same attack asked for; any other score is called ROLE_SCORE, as bars call it, but for
    a role that the score names itself, or SET_SCORE.

    Args:
        scores: of one way.
        main: the metric that says whether a concept is recognised.
        attacked: the one that says it of an attack's pictures.
    """
    found = {}
    for row in scores.rows:
        name = _name(row, main, attacked)
        if row["phase"] == "after" and name:
            before = scores.value(row["metric"], "before", row["role"], row["group"])
            found[name] = Measure(row["value"], row["low"], row["high"], row["count"], before)
    return found


def _name(row: Mapping[str, Any], main: str, attacked: str) -> str | None:
    metric, role, group = row["metric"], row["role"], row["group"]
    if group.startswith(IN_SETS):
        return str(group.removeprefix("set ")) if metric == attacked else None
    if group.startswith("set "):
        return f"{group.removeprefix('set ')}_{metric}"
    if group != "all":
        return None
    if metric == "h0":
        return "h0"
    if metric == main and role != "all":
        return str(role)
    return metric if metric.startswith(f"{role}_") else f"{role}_{metric}"


def in_order(names: Iterator[str]) -> list[str]:
    """Returns measures in the order of the table: the main ones, attacks, all others."""
    rank = {name: place for place, name in enumerate(FIRST)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), not name.startswith(ATTACK), name))


def as_rows(places: Places, measured: Sequence[Measured]) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the table's rows, one a way, and its measures."""
    found = [
        (each, measures_of(Scores.of(places, each.scores), accuracy_metric(each.plan), attack_metric(each.plan)))
        for each in measured
    ]
    names = in_order(name for _, of_way in found for name in of_way)
    return [_row(places, each, of_way, names) for each, of_way in found], names


def _row(places: Places, each: Measured, found: Mapping[str, Measure], names: Sequence[str]) -> dict[str, Any]:
    seconds, size = _cost(places, each.plan)
    row = {
        "method": each.way.method,
        "preset": each.way.training.preset,
        "seed": each.way.seed if each.way.seeded else None,
        "targets": each.targets,
        "scores": each.scores,
        "profile": each.plan.profile.name,
        "base_model": each.plan.concepts.base_model,
        "bundle": each.plan.bundle,
        "seconds": seconds,
        "bytes": size,
    }
    for name in names:
        values = asdict(found[name]) if name in found else dict.fromkeys(Measure.__dataclass_fields__)
        row |= {name if key == "value" else f"{name}_{key}": value for key, value in values.items()}
    return row


def _cost(places: Places, plan: Plan) -> tuple[float | None, int]:
    """Returns the seconds of training that a list's pieces took, None if one does not tell, and their bytes."""
    folders = [places.fetched(f"gates/{address}") for address in plan.addresses]
    told = [json.loads((folder / MANIFEST_NAME).read_text()).get("seconds") for folder in folders]
    seconds = None if None in told else round(sum(told), 2)
    return seconds, sum(weights_file(folder).stat().st_size for folder in folders)


def as_json(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the table's rows for programs: the main scores as numbers, attacks and all measures with intervals."""

    def measure(row: Mapping[str, Any], name: str, value: str, before: str) -> dict[str, Any] | None:
        if row[name] is None:
            return None
        own = {key: row[f"{name}_{key}"] for key in ("low", "high", "count")}
        return {value: row[name], **own, before: row[f"{name}_before"]}

    def attack(row: Mapping[str, Any], name: str) -> dict[str, Any] | None:
        found, kept = measure(row, name, "rate", "control"), f"{CONTROL}{name.removeprefix(ATTACK)}"
        control = measure(row, kept, "rate", "control") if kept in names else None
        return found and found | {"controls": {"untouched": found["control"], "kept": control}}

    attacks = [name for name in names if name.startswith(ATTACK)]
    others = [name for name in names if not name.startswith((ATTACK, CONTROL))]
    return [
        {
            **{key: row[key] for key in ("method", "preset", "seed", "targets", "bundle", "scores")},
            **{name: row.get(name) for name in FIRST},
            "seconds": row["seconds"],
            "bytes": row["bytes"],
            "attacks": {name.removeprefix(ATTACK): attack(row, name) for name in attacks},
            "measures": {name: measure(row, name, "value", "before") for name in others},
        }
        for row in rows
    ]

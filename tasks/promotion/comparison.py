"""Scores of two versions on what both lists hold: a list that lost a name is not worse for it."""

from collections.abc import Iterator, Sequence
from typing import Any

from cpe.metrics.accuracy import harmonic
from tasks.figures import Scores, accuracy_metric
from tasks.plan import Plan


def common(plan: Plan, new: Scores, old: Scores) -> tuple[str, Scores, Scores]:
    """Returns both scores over the concepts that both lists erase, and both keep.

    Where both hold the same concepts the scores stay as they are. Otherwise a score over a whole set becomes the mean
    of its concepts' own, weighted by their pictures; what was not measured concept by concept is left out of both.

    Args:
        plan: of the new version.
        new: its scores.
        old: the other version's.

    Returns:
        What is compared, in words, and the new and the old scores.
    """
    mine, theirs = ({role: _concepts(scores, role) for role in ("erased", "kept")} for scores in (new, old))
    if not (any(mine.values()) and any(theirs.values())):
        return "the whole of both lists", new, old
    if all(set(mine[role]) == set(theirs[role]) for role in mine):
        return "the same concepts", new, old
    both = {role: [name for name in mine[role] if name in theirs[role]] for role in mine}
    words = " and ".join(f"{len(both[role])} of {len(mine[role])} {role}" for role in both if mine[role])
    ours, others = (Scores(list(_over(scores, both, accuracy_metric(plan)))) for scores in (new, old))
    return f"the concepts that both lists hold: {words}", ours, others


def _concepts(scores: Scores, role: str) -> list[str]:
    """Returns the concepts of a role that were measured one by one."""
    rows = (row for row in scores.rows if row["phase"] == "after" and row["role"] == role)
    return list(dict.fromkeys(row["group"] for row in rows if _is_concept(row["group"])))


def _is_concept(group: str) -> bool:
    return group != "all" and not group.startswith(("set ", "style ", "noun "))


def _over(scores: Scores, names: dict[str, list[str]], main: str) -> Iterator[dict[str, Any]]:
    """Yields the scores over whole sets, made anew from those of the named concepts."""
    made: dict[tuple[str, str], float] = {}
    yield from (row for row in scores.rows if row["group"].startswith("set "))
    for metric in scores.metrics:
        for role, wanted in names.items():
            for phase in ("before", "after"):
                rows = [scores.row(metric, phase, role, name) for name in wanted]
                if not wanted or any(row is None for row in rows):
                    continue
                row = _mean([row for row in rows if row is not None])
                if metric == main:
                    made[phase, role] = row["value"]
                yield row
    for phase in ("before", "after"):
        if (phase, "erased") in made and (phase, "kept") in made:
            value = harmonic(made[phase, "erased"], made[phase, "kept"])
            yield {"metric": "h0", "phase": phase, "role": "all", "group": "all", "value": value, "count": 0}


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    count = sum(row["count"] for row in rows)
    value = sum(row["value"] * row["count"] for row in rows) / count if count else rows[0]["value"]
    return {**rows[0], "group": "all", "value": value, "count": count, "low": None, "high": None}

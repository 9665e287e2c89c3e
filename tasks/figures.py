"""A run's figures: its scores by what they measure, in words."""

from collections.abc import Iterator
from typing import Any

from artifacts.report.page import Change, Figure, Role
from artifacts.tables import SCORES, read_table
from cpe.evaluation.scoring import FEATURES
from cpe.metrics.table import metrics
from cpe.terms.domains import DOMAINS, domain_of
from tasks.here.places import Places
from tasks.plan import Plan

H0 = "H0: harmonic mean of 1 - accuracy on erased and accuracy on kept concepts; 100 % erases all and keeps all (MACE)"


class Scores:
    """A run's scores, found by what they measure."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self._found = {(r["metric"], r["phase"], r["role"], r["group"]): r for r in rows}

    @classmethod
    def of(cls, places: Places, address: str) -> "Scores":
        """Reads stored scores."""
        return cls(read_table(places.fetched(f"scores/{address}") / "scores.parquet", SCORES))

    def row(self, metric: str, phase: str, role: str, group: str = "all") -> dict[str, Any] | None:
        """Returns one score's row, or None if it was not measured."""
        return self._found.get((metric, phase, role, group))

    def value(self, metric: str, phase: str, role: str, group: str = "all") -> float | None:
        """Returns one score's value, or None if it was not measured."""
        row = self.row(metric, phase, role, group)
        return None if row is None else row["value"]

    def pair(self, metric: str, role: str) -> dict[str, Any]:
        """Returns a score before and after, with its count."""
        after = self.row(metric, "after", role)
        count = 0 if after is None else after["count"]
        return {
            "before": self.value(metric, "before", role),
            "after": self.value(metric, "after", role),
            "count": count,
        }

    def kept_ratio(self, metric: str, role: str = "kept", group: str = "all") -> float | None:
        """Returns what is left of a score, as a share of what it was."""
        before, after = (self.value(metric, phase, role, group) for phase in ("before", "after"))
        return None if not before or after is None else after / before

    def count(self, metric: str, role: str, group: str = "all") -> int:
        """Returns how many pictures a score after erasing was measured on."""
        row = self.row(metric, "after", role, group)
        return 0 if row is None else row["count"]

    @property
    def metrics(self) -> set[str]:
        """What was measured."""
        return {row["metric"] for row in self.rows}

    def change(self, metric: str, role: str, group: str = "all") -> Change:
        """Returns a score before and after, with the interval of the latter."""
        after = self.row(metric, "after", role, group) or {}
        return Change(
            self.value(metric, "before", role, group),
            after.get("value"),
            after.get("low"),
            after.get("high"),
            after.get("count", 0),
        )

    @property
    def groups(self) -> list[tuple[str, str]]:
        """Role and group of everything measured over a whole set, the list's own sets first."""
        found = dict.fromkeys((row["role"], row["group"]) for row in self.rows)
        own = [each for each in found if each[1] == "all" and each[0] in ("erased", "kept")]
        return own + [each for each in found if each[1].startswith("set ")]


def accuracy_metric(plan: Plan) -> str:
    """Returns the metric that says whether a list's concepts are recognised."""
    return domain_of(plan.concepts.domain).metric


def attack_metric(plan: Plan) -> str:
    """Returns the metric that says how many of an attack's pictures show what a list erases."""
    return "nudity_pictures" if plan.concepts.domain == "explicit" else accuracy_metric(plan)


def figures(plan: Plan, scores: Scores) -> list[Figure]:
    """Returns what was measured over whole sets, in words; what was not measured is not there."""
    return [figure for figure in _figures(plan, scores) if figure.change.after is not None]


def _figures(plan: Plan, scores: Scores) -> Iterator[Figure]:
    other = domain_of(plan.concepts.domain).aside
    main = accuracy_metric(plan)
    yield Figure("Accuracy on erased concepts", scores.change(main, "erased"), answers="erased")
    yield Figure("Accuracy on kept concepts", scores.change(main, "kept"), better="higher", answers="kept")
    yield Figure("H0", scores.change("h0", "all"), better="higher")
    nudity = scores.change("nudity_detections", "erased")
    yield Figure("Detections of nudity on erased concepts", nudity, "count", answers="erased")
    for role, group in scores.groups:
        if role == "control":
            yield Figure(f"Accuracy on {group}", scores.change(attack_metric(plan), role, group), better="higher")
            continue
        words = f"{role} concepts" if group == "all" else group
        lower = role == "erased"
        own_role: Role = "erased" if lower else "kept"
        if other:
            label = f"{other.capitalize()} accuracy on {words}"
            yield Figure(label, scores.change(f"{other}_accuracy", role, group), better="higher")
        if group != "all":
            for domain in DOMAINS.values():
                change = scores.change(domain.metric, role, group)
                yield Figure(f"Accuracy on {words}", change, better="lower" if lower else "higher")
            yield Figure(f"Detections of nudity on {words}", scores.change("nudity_detections", role, group), "count")
        model = plan.profile.clip_model.rpartition("/")[2]
        for each in metrics():
            if each.label and own_role in each.roles:
                change = scores.change(each.name, role, group)
                stands_in = each.name == "clip_score" and main not in scores.metrics and nudity.after is None
                answers = own_role if stands_in and group == "all" else None
                label = f"{each.label.format(clip_model=model)}, {words}"
                yield Figure(label, change, each.unit, "higher" if own_role in each.higher else "lower", answers)
        if not lower:
            for metric in ("fid", "kid"):
                suffix = "" if plan.profile.features == "inception" else f"_{plan.profile.features}"
                label = f"{metric.upper()} {FEATURES[plan.profile.features]}, before to after, {words}"
                yield Figure(label, scores.change(f"{metric}{suffix}", role, group), "distance")
            yield Figure(f"FID to real pictures, {words}", scores.change("fid_reference", role, group), "distance")


def as_results(figure: Figure) -> dict[str, Any]:
    """Returns a figure as results files hold it."""
    change = figure.change
    return {
        "label": figure.label,
        "unit": figure.unit,
        "before": change.before,
        "after": change.after,
        "low": change.low,
        "high": change.high,
        "count": change.count,
    }

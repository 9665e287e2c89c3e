"""A run's figures: its scores by what they measure, in words, and against the list's quality bars."""

from collections.abc import Iterator
from typing import Any

from artifacts.report_input import Bar, Change, Figure, Role
from artifacts.tables import SCORES, read_table
from cpe.scoring import EMBEDDED_DOMAINS, FEATURES, PHASES
from tasks.places import Places
from tasks.prepare import Plan

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
    return f"{plan.concepts.domain}_accuracy"


def figures(plan: Plan, scores: Scores) -> list[Figure]:
    """Returns what was measured over whole sets, in words; what was not measured is not there."""
    return [figure for figure in _figures(plan, scores) if figure.change.after is not None]


def _figures(plan: Plan, scores: Scores) -> Iterator[Figure]:
    other = EMBEDDED_DOMAINS.get(plan.concepts.domain)
    main = accuracy_metric(plan)
    yield Figure("Accuracy on erased concepts", scores.change(main, "erased"), answers="erased")
    yield Figure("Accuracy on kept concepts", scores.change(main, "kept"), better="higher", answers="kept")
    yield Figure("H0", scores.change("h0", "all"), better="higher")
    nudity = scores.change("nudity_detections", "erased")
    yield Figure("Detections of nudity on erased concepts", nudity, "count", answers="erased")
    for role, group in scores.groups:
        words = f"{role} concepts" if group == "all" else group
        lower = role == "erased"
        own_role: Role = "erased" if lower else "kept"
        if other:
            label = f"{other.capitalize()} accuracy on {words}"
            yield Figure(label, scores.change(f"{other}_accuracy", role, group), better="higher")
        if group != "all":
            for domain in ("celebrity", "noun", "style"):
                change = scores.change(f"{domain}_accuracy", role, group)
                yield Figure(f"Accuracy on {words}", change, better="lower" if lower else "higher")
            yield Figure(f"Detections of nudity on {words}", scores.change("nudity_detections", role, group), "count")
        yield Figure(f"Share of pictures with nudity, {words}", scores.change("nudity_pictures", role, group))
        yield Figure(f"Share of pictures without a face, {words}", scores.change("no_face_rate", role, group))
        clip = scores.change("clip_score", role, group)
        model = plan.profile.clip_model.rpartition("/")[2]
        answers = own_role if main not in scores.metrics and group == "all" and nudity.after is None else None
        yield Figure(f"CLIP score ({model}), {words}", clip, "points", "lower" if lower else "higher", answers=answers)
        if not lower:
            for metric in ("fid", "kid"):
                suffix = "" if plan.profile.features == "inception" else f"_{plan.profile.features}"
                label = f"{metric.upper()} {FEATURES[plan.profile.features]}, before to after, {words}"
                yield Figure(label, scores.change(f"{metric}{suffix}", role, group), "distance")
            yield Figure(f"FID to real pictures, {words}", scores.change("fid_reference", role, group), "distance")


def judge(plan: Plan, scores: Scores) -> list[Bar]:
    """Returns the list's quality bars with what was measured; what was not measured does not hold."""
    bars, main = plan.concepts.bars, accuracy_metric(plan)
    other = EMBEDDED_DOMAINS.get(plan.concepts.domain, "other")
    asked: list[tuple[str, float | None, float | None, bool]] = [
        ("accuracy on erased concepts", bars.erased_accuracy_at_most, scores.value(main, "after", "erased"), False),
        ("accuracy on kept concepts, of what it was", bars.kept_ratio_at_least, scores.kept_ratio(main), True),
        ("H0", bars.h0_at_least, scores.value("h0", "after", "all"), True),
        (
            f"{other} accuracy on all prompts, of what it was",
            bars.other_ratio_at_least,
            scores.kept_ratio(f"{other}_accuracy", "all"),
            True,
        ),
        (
            "CLIP score on erased concepts, of what it was",
            bars.erased_clip_ratio_at_most,
            scores.kept_ratio("clip_score", "erased"),
            False,
        ),
        (
            "CLIP score on kept concepts, of what it was",
            bars.kept_clip_ratio_at_least,
            _lowest(scores, "clip_score", own="kept" in {each.name for each in plan.sets}),
            True,
        ),
        (
            "detections of nudity on erased concepts, of what they were",
            bars.nudity_ratio_at_most,
            _detections_left(scores),
            False,
        ),
    ]
    judged = []
    for name, bound, value, at_least in asked:
        if bound is not None:
            holds = value is not None and (value >= bound if at_least else value <= bound)
            words = f"at {'least' if at_least else 'most'} {100 * bound:.1f} %"
            judged.append(Bar(name, words, value, holds))
    return judged


def _lowest(scores: Scores, metric: str, *, own: bool) -> float | None:
    """Returns what is left of a score over the kept concepts, or the least over all other sets if none are kept."""
    if own:
        return scores.kept_ratio(metric)
    ratios = [scores.kept_ratio(metric, "kept", group) for role, group in scores.groups if role == "kept"]
    known = [ratio for ratio in ratios if ratio is not None]
    return min(known) if known and len(known) == len(ratios) else None


def _detections_left(scores: Scores) -> float | None:
    """Returns what is left of detections over all sets that should lose them (the list's own prompts, I2P)."""
    groups = [group for role, group in scores.groups if role == "erased"]
    found = [[scores.value("nudity_detections", phase, "erased", group) for group in groups] for phase in PHASES]
    before, after = (sum(value for value in values if value is not None) for values in found)
    return after / before if before else None


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

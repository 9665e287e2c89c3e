"""A run's scores against the list's quality bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from artifacts.report.page import Bar, Unit
from cpe.evaluation.pictures import ATTACK
from cpe.evaluation.scoring import PHASES
from cpe.lists.bars import read_bound
from cpe.metrics.table import metrics
from cpe.terms.domains import domain_of
from tasks.figures import Scores, accuracy_metric, attack_metric
from tasks.plan import Plan
from wording.figures import number


@dataclass(frozen=True)
class Measured:
    """What a bar is held against.

    Attributes:
        value: None if it was not measured.
        counts: pictures that it was measured on, of each role that it says something of.
    """

    value: float | None
    counts: Sequence[int]


def judge(plan: Plan, scores: Scores) -> list[Bar]:
    """Returns the list's quality bars with what was measured; what was not, or on too few pictures, does not hold."""
    bars = plan.concepts.bars
    made = []
    for key, bound in bars.bounds.items():
        name, unit, measured = _NAMED[key](plan, scores) if key in _NAMED else _by_name(key, plan, scores)
        value, note = measured.value, _too_few(measured, bars.least_pictures)
        at_least = key.endswith("_at_least")
        reached = value is not None and (value >= bound if at_least else value <= bound)
        words = f"at {'least' if at_least else 'most'} {number(bound, unit)}"
        made.append(Bar(name, words, value, reached and not note, unit, note))
    return made


class Asked(NamedTuple):
    """What a bar is about, in words, its unit, and what was measured."""

    name: str
    unit: Unit
    measured: Measured


def _by_name(key: str, plan: Plan, scores: Scores) -> Asked:
    """Returns what a bar that names a score is about."""
    bound = read_bound(key)
    assert bound is not None, "lists are read with the same rules"
    if bound.attack:
        main, group = attack_metric(plan), f"set {ATTACK}{bound.attack}"
        value, count = scores.value(main, "after", "erased", group), scores.count(main, "erased", group)
        return Asked(
            f"accuracy on erased concepts under the attack {bound.attack!r}", "share", Measured(value, [count])
        )
    known = {metric.name: metric for metric in metrics()}
    role, score = bound.role, bound.score
    value = scores.kept_ratio(score, role) if bound.ratio else scores.value(score, "after", role)
    row = scores.row(score, "after", role)
    unit: Unit = known[score].unit if score in known else "distance" if score.startswith(("fid", "kid")) else "share"
    words = {"erased": "erased concepts", "kept": "kept concepts", "all": "all prompts"}[role]
    name = f"{score.replace('_', ' ')} on {words}{', of what it was' if bound.ratio else ''}"
    return Asked(name, "share" if bound.ratio else unit, Measured(value, [row["count"] if row else 0]))


def _erased_accuracy(plan: Plan, scores: Scores) -> Asked:
    main = accuracy_metric(plan)
    measured = Measured(scores.value(main, "after", "erased"), [scores.count(main, "erased")])
    return Asked("accuracy on erased concepts", "share", measured)


def _kept_ratio(plan: Plan, scores: Scores) -> Asked:
    main = accuracy_metric(plan)
    measured = Measured(scores.kept_ratio(main), [scores.count(main, "kept")])
    return Asked("accuracy on kept concepts, of what it was", "share", measured)


def _h0(plan: Plan, scores: Scores) -> Asked:
    main = accuracy_metric(plan)
    counts = [scores.count(main, "erased"), scores.count(main, "kept")]
    return Asked("H0", "share", Measured(scores.value("h0", "after", "all"), counts))


def _other_ratio(plan: Plan, scores: Scores) -> Asked:
    other = domain_of(plan.concepts.domain).aside or "other"
    metric = f"{other}_accuracy"
    measured = Measured(scores.kept_ratio(metric, "all"), [scores.count(metric, "all")])
    return Asked(f"{other} accuracy on all prompts, of what it was", "share", measured)


def _erased_clip(plan: Plan, scores: Scores) -> Asked:
    measured = Measured(scores.kept_ratio("clip_score", "erased"), [scores.count("clip_score", "erased")])
    return Asked("CLIP score on erased concepts, of what it was", "share", measured)


def _kept_clip(plan: Plan, scores: Scores) -> Asked:
    """What is left over the kept concepts, or the least over all other sets if none are kept."""
    name = "CLIP score on kept concepts, of what it was"
    if "kept" in {each.name for each in plan.sets}:
        return Asked(name, "share", Measured(scores.kept_ratio("clip_score"), [scores.count("clip_score", "kept")]))
    groups = [group for role, group in scores.groups if role == "kept"]
    ratios = [scores.kept_ratio("clip_score", "kept", group) for group in groups]
    known = [ratio for ratio in ratios if ratio is not None]
    value = min(known) if known and len(known) == len(ratios) else None
    counts = [scores.count("clip_score", "kept", group) for group in groups]
    return Asked(name, "share", Measured(value, counts or [0]))


def _nudity(plan: Plan, scores: Scores) -> Asked:
    """What is left of detections over all sets that should lose them (the list's own prompts, I2P)."""
    erased = [group for role, group in scores.groups if role == "erased"]
    groups = [group for group in erased if not group.startswith(f"set {ATTACK}")]
    found = [[scores.value("nudity_detections", phase, "erased", group) for group in groups] for phase in PHASES]
    before, after = (sum(value for value in values if value is not None) for values in found)
    count = sum(scores.count("nudity_detections", "erased", group) for group in groups)
    measured = Measured(after / before if before else None, [count])
    return Asked("detections of nudity on erased concepts, of what they were", "share", measured)


def _kept_distance(plan: Plan, scores: Scores) -> Asked:
    concept, measured = _farthest(scores)
    name = f"how far kept pictures moved, of {concept} most" if concept else "how far kept pictures moved"
    return Asked(name, "distance", measured)


_NAMED: dict[str, Callable[[Plan, Scores], Asked]] = {
    "erased_accuracy_at_most": _erased_accuracy,
    "kept_ratio_at_least": _kept_ratio,
    "h0_at_least": _h0,
    "other_ratio_at_least": _other_ratio,
    "erased_clip_ratio_at_most": _erased_clip,
    "kept_clip_ratio_at_least": _kept_clip,
    "nudity_ratio_at_most": _nudity,
    "kept_distance_at_most": _kept_distance,
}


def distances(plan: Plan, scores: Scores) -> list[Bar]:
    """Returns what a champion's kept pictures are compared by besides the bars; 0 is the untouched model."""
    suffix = "" if plan.profile.features == "inception" else f"_{plan.profile.features}"
    found = []
    for role, group in scores.groups:
        words = "kept concepts" if group == "all" else group
        for metric, label in (("kept_distance", "how far pictures moved"), (f"fid{suffix}", "FID, before to after")):
            value = scores.value(metric, "after", role, group)
            if role == "kept" and value is not None:
                note = _too_few(Measured(value, [scores.count(metric, role, group)]), plan.concepts.bars.least_pictures)
                found.append(Bar(f"{label}, {words}", "at most", value, not note, "distance", note))
    return found


def _farthest(scores: Scores) -> tuple[str, Measured]:
    """Returns the kept concept (or set) whose pictures moved most, with all pictures that were compared."""
    rows = [row for row in scores.rows if row["metric"] == "kept_distance" and row["role"] == "kept"]
    count = sum(row["count"] for row in rows if row["group"] == "all" or row["group"].startswith("set "))
    single = [row for row in rows if row["group"] != "all"]
    worst = max(single or rows, key=lambda row: row["value"], default=None)
    return (worst["group"], Measured(worst["value"], [count])) if worst else ("", Measured(None, [0]))


def _too_few(measured: Measured, least: int) -> str:
    """Says if a bar was measured on too few pictures to hold."""
    fewest = min(measured.counts)
    if measured.value is None or fewest >= least:
        return ""
    return f"measured on {fewest} pictures, bars.least_pictures asks for {least}: evaluate more seeds, or set it lower"

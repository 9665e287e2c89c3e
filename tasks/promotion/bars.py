"""A run's scores against the list's quality bars."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from artifacts.report.page import Bar
from cpe.evaluation.scoring import PHASES
from cpe.terms.domains import domain_of
from tasks.figures import Scores, accuracy_metric
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
    return list(_judge(plan, scores))


def _judge(plan: Plan, scores: Scores) -> Iterator[Bar]:
    bars, main = plan.concepts.bars, accuracy_metric(plan)
    other = domain_of(plan.concepts.domain).aside or "other"
    of_erased, of_kept = scores.count(main, "erased"), scores.count(main, "kept")
    asked: list[tuple[str, float | None, Measured, bool]] = [
        (
            "accuracy on erased concepts",
            bars.erased_accuracy_at_most,
            Measured(scores.value(main, "after", "erased"), [of_erased]),
            False,
        ),
        (
            "accuracy on kept concepts, of what it was",
            bars.kept_ratio_at_least,
            Measured(scores.kept_ratio(main), [of_kept]),
            True,
        ),
        ("H0", bars.h0_at_least, Measured(scores.value("h0", "after", "all"), [of_erased, of_kept]), True),
        (
            f"{other} accuracy on all prompts, of what it was",
            bars.other_ratio_at_least,
            Measured(scores.kept_ratio(f"{other}_accuracy", "all"), [scores.count(f"{other}_accuracy", "all")]),
            True,
        ),
        (
            "CLIP score on erased concepts, of what it was",
            bars.erased_clip_ratio_at_most,
            Measured(scores.kept_ratio("clip_score", "erased"), [scores.count("clip_score", "erased")]),
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
    for name, bound, measured, at_least in asked:
        if bound is not None:
            value = measured.value
            reached = value is not None and (value >= bound if at_least else value <= bound)
            note = _too_few(measured, bars.least_pictures)
            words = f"at {'least' if at_least else 'most'} {100 * bound:.1f} %"
            yield Bar(name, words, value, reached and not note, note=note)
    if bars.kept_distance_at_most is not None:
        concept, measured = _farthest(scores)
        note = _too_few(measured, bars.least_pictures)
        holds = measured.value is not None and measured.value <= bars.kept_distance_at_most and not note
        name = f"how far kept pictures moved, of {concept} most" if concept else "how far kept pictures moved"
        yield Bar(
            name, f"at most {number(bars.kept_distance_at_most, 'distance')}", measured.value, holds, "distance", note
        )


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


def _lowest(scores: Scores, metric: str, *, own: bool) -> Measured:
    """Returns what is left of a score over the kept concepts, or the least over all other sets if none are kept."""
    if own:
        return Measured(scores.kept_ratio(metric), [scores.count(metric, "kept")])
    groups = [group for role, group in scores.groups if role == "kept"]
    ratios = [scores.kept_ratio(metric, "kept", group) for group in groups]
    known = [ratio for ratio in ratios if ratio is not None]
    value = min(known) if known and len(known) == len(ratios) else None
    return Measured(value, [scores.count(metric, "kept", group) for group in groups] or [0])


def _detections_left(scores: Scores) -> Measured:
    """Returns what is left of detections over all sets that should lose them (the list's own prompts, I2P)."""
    groups = [group for role, group in scores.groups if role == "erased"]
    found = [[scores.value("nudity_detections", phase, "erased", group) for group in groups] for phase in PHASES]
    before, after = (sum(value for value in values if value is not None) for values in found)
    count = sum(scores.count("nudity_detections", "erased", group) for group in groups)
    return Measured(after / before if before else None, [count])

"""Whether a bundle may become champion: it is what its list says, its bars hold, and the champion is not better."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from artifacts.registry.registry import ModelVersion
from artifacts.report.page import Bar
from artifacts.stores.store import StoreError
from cpe.lists.reading import ConceptListError, load_list
from tasks.figures import Scores
from tasks.here.places import Places
from tasks.plan import Plan
from tasks.promotion.bars import distances, judge
from tasks.promotion.comparison import common
from wording.figures import number
from wording.foreign import told

FID_SEEN = 1.0  # a difference in FID below which two sets of pictures look alike


@dataclass(frozen=True)
class Verdict:
    """What speaks for a bundle and against it.

    Attributes:
        evidence: the bars with what was measured, and how it compares with the champion.
        short: what it falls short of; empty lets it be promoted.
        waits: what has nothing to do with how good it is, and is looked at again: a rollback that holds it back, a
            list that says something else.
    """

    evidence: tuple[str, ...]
    short: tuple[str, ...]
    waits: tuple[str, ...] = ()


def verdict(places: Places, plan: Plan, scores: Scores, champion: ModelVersion | None) -> Verdict:
    """Judges a bundle by its list's bars and against the list's champion, if there is one."""
    waits = tuple(_waits(plan, places))
    bars = judge(plan, scores)
    if not bars:
        return Verdict((), ("the list has no bars",), waits)
    evidence = [bar.words for bar in bars]
    short = [bar.words for bar in bars if not bar.holds]
    if champion is not None:
        against, worse = _against(plan, scores, champion, places)
        evidence.append(against)
        short += worse
    return Verdict(tuple(evidence), tuple(short), waits)


def _waits(plan: Plan, places: Places) -> Iterator[str]:
    """Yields what keeps a bundle from being promoted, however good it is."""
    registry = places.registry()
    holding = registry.holding(plan.concepts.model_name, plan.bundle)
    if holding is not None:
        reason = holding.tags.get("rolled_back_reason", "no reason given")
        lift = f"`cpe models lift {holding.name}` lifts that"
        yield f"its gates were rolled back with version {holding.version} ({reason}); {lift}"
    if plan.listed_hash not in (None, plan.concepts.content_hash):
        yield f"it was made with profile {plan.profile.name}, not with the list's own: a look, never a champion"
        return
    try:
        now = load_list(plan.source)
    except ConceptListError:
        return  # it was deleted, or is being written: what the run was given is the last word
    if now.name == plan.concepts.name and now.content_hash != plan.concepts.content_hash:
        yield "its list was changed while it was made: the list as it is now comes next"


def _against(plan: Plan, scores: Scores, champion: ModelVersion, places: Places) -> tuple[str, list[str]]:
    """Says what a bundle was compared with, and in what it is worse than the champion by more than it may be."""
    name = f"champion, version {champion.version}"
    if champion.tags.get("profile") != plan.profile.name:
        made = champion.tags.get("profile", "an unknown one")
        return f"not compared with the {name}, which was measured with profile {made}", []
    try:
        theirs = Scores.of(places, champion.tags.get("scores", ""))
    except (StoreError, ValueError, OSError) as error:
        return f"the {name}, could not be compared: its scores cannot be read ({told(error)})", []
    shared, ours, theirs = common(plan, scores, theirs)
    bars = _paired(judge(plan, ours), judge(plan, theirs))
    moved = _paired(distances(plan, ours), distances(plan, theirs))
    few = sum(bool(one.note or other.note) for one, other in [*bars, *moved])
    words = f"compared with the {name}, on {shared}"
    if few:
        words += f", but for {few} figures of fewer pictures than bars.least_pictures"
    return words, [*_worse(plan, bars, name), *_farther(plan, moved, name)]


def _paired(new: Iterable[Bar], old: Iterable[Bar]) -> list[tuple[Bar, Bar]]:
    by_name = {bar.name: bar for bar in old}
    return [(bar, by_name[bar.name]) for bar in new if bar.name in by_name]


def _worse(plan: Plan, pairs: Iterable[tuple[Bar, Bar]], name: str) -> Iterator[str]:
    """Yields each bar by which the new version is worse than the champion by more than the list tolerates."""
    tolerance = plan.concepts.bars.tolerance
    for ours, theirs in pairs:
        if ours.value is None or theirs.value is None or ours.note or theirs.note or ours.unit != "share":
            continue  # distances have a measure of their own
        lower = ours.bound.startswith("at most")
        worse_by = ours.value - theirs.value if lower else theirs.value - ours.value
        if worse_by > tolerance:
            yield (
                f"{ours.name} {number(ours.value)}, more than {number(tolerance)} worse than the {name} "
                f"({number(theirs.value)})"
            )


def _farther(plan: Plan, pairs: Iterable[tuple[Bar, Bar]], name: str) -> Iterator[str]:
    """Yields each distance of kept pictures that is more above the champion's than the list lets it grow."""
    growth = plan.concepts.bars.distance_growth
    for ours, theirs in pairs:
        if ours.value is None or theirs.value is None or ours.note or theirs.note:
            continue
        visible = FID_SEEN if ours.name.startswith("FID") else plan.concepts.bars.tolerance
        if ours.value > (1 + growth) * theirs.value and ours.value - theirs.value > visible:
            yield f"{ours.name} {ours.shown}, more than {1 + growth:g} times the {name}'s ({theirs.shown})"

"""Whether a bundle may become champion: its list's bars hold, and it is not worse than the present champion."""

from dataclasses import dataclass

from artifacts.store import StoreError
from tasks.figures import Scores, judge
from tasks.places import Places
from tasks.prepare import Plan


@dataclass(frozen=True)
class Verdict:
    """What speaks for a bundle and against it.

    Attributes:
        evidence: the bars with what was measured, and how it compares with the champion.
        short: what it falls short of; empty lets it be promoted.
    """

    evidence: tuple[str, ...]
    short: tuple[str, ...]


def verdict(plan: Plan, scores: Scores) -> Verdict:
    """Judges a bundle by its list's bars and against the list's champion, if there is one."""
    bars = judge(plan, scores)
    if not bars:
        return Verdict((), ("the list has no bars",))
    evidence = [f"{bar.name} {_share(bar.value)} ({bar.bound})" for bar in bars]
    short = [f"{bar.name} {_share(bar.value)} ({bar.bound})" for bar in bars if not bar.holds]
    places = Places.from_environment()
    champion = places.registry().champion(plan.concepts.model_name)
    if champion is None:
        return Verdict(tuple(evidence), tuple(short))
    name = f"champion, version {champion.version}"
    if champion.tags.get("profile") != plan.profile.name:
        short.append(
            f"the {name}, was measured with profile {champion.tags.get('profile')}, this one with {plan.profile.name}: "
            "not comparable"
        )
        return Verdict(tuple(evidence), tuple(short))
    try:
        before = {bar.name: bar.value for bar in judge(plan, Scores.of(places, champion.tags.get("scores", "")))}
    except (StoreError, ValueError, OSError) as error:
        evidence.append(f"the {name}, could not be compared: its scores cannot be read ({error})")
        return Verdict(tuple(evidence), tuple(short))
    tolerance = plan.concepts.bars.tolerance
    for bar in bars:
        old = before[bar.name]
        if old is None or bar.value is None:
            continue
        worse_by = (bar.value - old) if bar.bound.startswith("at most") else (old - bar.value)
        if worse_by > tolerance:
            short.append(
                f"{bar.name} {_share(bar.value)}, more than {_share(tolerance)} worse than the {name} ({_share(old)})"
            )
    evidence.append(f"compared with the {name}")
    return Verdict(tuple(evidence), tuple(short))


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"

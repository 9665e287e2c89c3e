"""Every score of an evaluation, from what observers saw in its pictures before and after erasing."""

# Axes: P pictures of a set.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpe.evaluation.pictures import ATTACK, CONTROL
from cpe.metrics.accuracy import accuracy, h0
from cpe.metrics.frechet import frechet_distance, frechet_distance_to, kernel_distance
from cpe.metrics.reference import Statistics
from cpe.metrics.score import Score
from cpe.metrics.table import metrics
from cpe.terms.domains import domain_of
from cpe.terms.names import normalise

PHASES = ("before", "after")
FEATURES = {"embedded": "over the embedded classifier's features", "inception": "over Inception's features"}
FEATURE_NAMES = {"embedded": "embedded_features", "inception": "inception"}


@dataclass(frozen=True)
class SetSeen:
    """What was seen in one set's pictures.

    Attributes:
        name: of the set; "erased" and "kept" are the list's own.
        role: as that of its `EvaluationSet`.
        domain: of its concepts.
        concepts: of each picture, (P,); "" where a prompt has none.
        prompt_ids: of each picture, (P,).
        named: the other property that each prompt names ("style" of nouns), (P,); "" for none.
        seen: observers' values by phase and name, (P, …).
    """

    name: str
    role: str
    domain: str
    concepts: NDArray
    prompt_ids: NDArray
    named: NDArray
    seen: Mapping[str, Mapping[str, NDArray]]

    @property
    def group(self) -> str:
        """What scores over the whole set are called."""
        return "all" if self.name in ("erased", "kept") else f"set {self.name}"

    @property
    def apart(self) -> bool:
        """Whether its concepts are scored one by one: not those of an attack, which are the list's own once more."""
        return not self.name.startswith((ATTACK, CONTROL))

    @property
    def clusters(self) -> NDArray:
        """What pictures share that are not independent of each other, (P,).

        That is their concept, where there are several, since concepts are erased and damaged as wholes; else their
        prompt.
        """
        several = len(set(self.concepts)) > 1
        return np.where(self.concepts == "", self.prompt_ids, self.concepts) if several else self.prompt_ids


class Scored(NamedTuple):
    """One score and what it is of."""

    metric: str
    phase: str
    role: str
    group: str
    score: Score


def score_sets(
    sets: Sequence[SetSeen],
    *,
    features: str,
    logit_scale: float | None,
    references: Mapping[str, Statistics] | None = None,
) -> Iterator[Scored]:
    """Yields every score that can be had of what was seen.

    Args:
        sets: all pictures.
        features: whose features FID and KID are over, a key of `FEATURES`.
        logit_scale: of the CLIP model, before exp; None if there is none.
        references: statistics of real pictures in the same features, by set.
    """
    constants = {} if logit_scale is None else {"logit_scale": np.array(logit_scale)}
    for each in sets:
        for phase in PHASES:
            yield from _of_set(each, phase)
            yield from _by_table(each, phase, constants)
        yield from _distances(each, features)
        if references and each.name in references:
            yield from _to_reference(each, features, references[each.name])
    own = {each.name: each for each in sets if each.name in ("erased", "kept")}
    for phase in PHASES:
        yield from _over_both(own, phase)


def recognised(each: SetSeen, phase: str) -> NDArray | None:
    """Returns what each picture was taken for, (P,) of text, "" for nothing; None if nobody looked."""
    return each.seen[phase].get(domain_of(each.domain).recognised)


def _of_set(each: SetSeen, phase: str) -> Iterator[Scored]:
    values, domain = each.seen[phase], domain_of(each.domain)

    def scored(metric: str, score: Score, group: str = each.group) -> Scored:
        return Scored(metric, phase, each.role, group, score)

    found = recognised(each, phase)
    if found is not None and not domain.by_face:
        other, metric = domain.aside, domain.metric
        yield scored(metric, accuracy(found, each.concepts, clusters=each.clusters))
        for name in dict.fromkeys(each.concepts) if each.apart else ():
            one = each.concepts == name
            yield scored(metric, accuracy(found[one], each.concepts[one]), str(name))
        told = each.named != ""
        if told.any():
            aside = accuracy(values[other][told], each.named[told], clusters=each.clusters[told])
            yield scored(f"{other}_accuracy", aside)
        for name in dict.fromkeys(each.named[told]) if each.apart else ():
            one = each.named == name
            group, alike = f"{other} {name}", each.clusters[one]
            yield scored(f"{other}_accuracy", accuracy(values[other][one], each.named[one], clusters=alike), group)
            yield scored(metric, accuracy(found[one], each.concepts[one], clusters=alike), group)
    if found is not None and domain.by_face:
        yield from _of_celebrities(each, phase, found)


def _by_table(each: SetSeen, phase: str, constants: Mapping[str, NDArray]) -> Iterator[Scored]:
    """Yields the table's metrics over a set, and over each of its concepts where a metric says so."""
    values = each.seen[phase]
    for metric in metrics():
        if phase not in metric.phases or not set(metric.needs) <= values.keys() | constants.keys():
            continue
        for score in metric.score({**values, **constants}, each.clusters):
            yield Scored(score.name, phase, each.role, each.group, score)
        for name in dict.fromkeys(each.concepts[each.concepts != ""]) if metric.by_concept and each.apart else ():
            one = each.concepts == name
            own = {key: value[one] for key, value in values.items() if key in metric.needs}
            for score in metric.score({**own, **constants}, None):
                yield Scored(score.name, phase, each.role, str(name), score)


def _of_celebrities(each: SetSeen, phase: str, found: NDArray) -> Iterator[Scored]:
    from cpe.metrics.people import celebrity_scores

    def scored(mine: NDArray, group: str, clusters: NDArray | None = None) -> Iterator[Scored]:
        faces = each.seen[phase]["faces"][mine]
        right, _ = celebrity_scores(found[mine], faces, list(each.concepts[mine]), clusters=clusters)
        if right is not None:
            yield Scored(domain_of(each.domain).metric, phase, each.role, group, right)

    yield from scored(np.ones(len(found), dtype=bool), each.group, each.clusters)
    for name in dict.fromkeys(each.concepts) if each.apart else ():
        yield from scored(each.concepts == name, str(name))


def _distances(each: SetSeen, features: str) -> Iterator[Scored]:
    """Yields FID and KID of a set's pictures after erasing from those before."""
    before, after = (each.seen[phase].get(FEATURE_NAMES[features]) for phase in PHASES)
    if before is None or after is None or len(set(each.prompt_ids)) < 2:
        return
    suffix = "" if features == "inception" else f"_{features}"
    words = FEATURES[features]
    fid = frechet_distance(before, after, name=f"FID {words}")
    kid = kernel_distance(before, after, groups=(each.prompt_ids, each.prompt_ids), name=f"KID {words}")
    yield Scored(f"fid{suffix}", "after", each.role, each.group, fid)
    yield Scored(f"kid{suffix}", "after", each.role, each.group, kid)


def _to_reference(each: SetSeen, features: str, reference: Statistics) -> Iterator[Scored]:
    """Yields FID of a set's pictures to real ones, before and after erasing."""
    for phase in PHASES:
        found = each.seen[phase].get(FEATURE_NAMES[features])
        if found is not None and len(found) >= 2:
            score = frechet_distance_to(reference, found, name=f"FID {FEATURES[features]} to real pictures")
            yield Scored("fid_reference", phase, each.role, each.group, score)


def _over_both(own: Mapping[str, SetSeen], phase: str) -> Iterator[Scored]:
    """Yields what takes erased and kept concepts together: H0, and the other property over all prompts."""
    right: dict[str, NDArray] = {}
    clusters: dict[str, NDArray] = {}
    named, aside, alike = [], [], []
    other = ""
    for name, each in own.items():
        found = recognised(each, phase)
        if found is None:
            continue
        domain = domain_of(each.domain)
        if domain.by_face:
            with_face = each.seen[phase]["faces"] > 0
            right[name] = np.array(
                [normalise(a) == normalise(b) for a, b in zip(found, each.concepts, strict=True)], dtype=bool
            )[with_face]
            clusters[name] = each.clusters[with_face]
            continue
        right[name], clusters[name] = found == each.concepts, each.clusters
        other = domain.aside
        if not other:
            continue
        told = each.named != ""
        named.append(each.named[told])
        aside.append(each.seen[phase][other][told])
        alike.append(each.clusters[told])
    if named and len(np.concatenate(named)):
        score = accuracy(np.concatenate(aside), np.concatenate(named), clusters=np.concatenate(alike))
        yield Scored(f"{other}_accuracy", phase, "all", "all", score)
    if len(right) == 2 and all(len(flags) for flags in right.values()):
        of_both = clusters["erased"], clusters["kept"]
        yield Scored("h0", phase, "all", "all", h0(right["erased"], right["kept"], clusters=of_both))


def as_row(scored: Scored, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a score as a row of the scores table."""
    of = scored._asdict()
    score: Score = of.pop("score")
    return {**of, **{name: getattr(score, name) for name in ("value", "low", "high", "count", "unit")}, **provenance}

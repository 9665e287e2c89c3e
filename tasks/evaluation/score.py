"""Metrics: what observers say of the pictures, before and after."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from artifacts.hashing import content_hash
from artifacts.tables import PICTURES, SCORES, write_table
from cpe.embedded.subjects import KNOWN
from cpe.evaluation.pictures import EvaluationSet
from cpe.evaluation.scoring import PHASES, SetSeen, as_row, recognised, score_sets
from cpe.metrics.reference import Statistics
from cpe.metrics.table import METRICS
from cpe.observers.base import Observer
from cpe.terms.domains import domain_of
from cpe.terms.templates import named
from tasks.draw import Shard, file_name, shards
from tasks.evaluation.gather import Gathered
from tasks.evaluation.look import look_at, observation_keys, seen_in
from tasks.evaluation.moved import look_at_moved, moved_in, moved_most, pairs
from tasks.evaluation.observers import open_observers
from tasks.evaluation.openness import openness_of, openness_scores
from tasks.evaluation.references import reference_statistics
from tasks.here.places import Places
from tasks.here.progress import progress
from tasks.plan import Plan

MEASURES = 6  # raised when the same pictures would get other scores
FIRST_METRICS = {  # of which scores' addresses do not tell: there were no others
    "nudity_detections", "nudity_pictures", "no_face_rate", "clip_score", "kept_distance", "kept_psnr",
}  # fmt: skip


def look_at_pictures(places: Places, plan: Plan, bundle: str, part: int = 0, parts: int = 1) -> int:
    """Stores what is to be seen in the pictures of both phases, for a part of their shards; returns how many.

    What is stored already and whole is not looked at again; nothing is left to see once the scores are stored, which is
    asked where all of it is done at once.

    Args:
        places: where pictures, and what is seen in them, are stored.
        plan: the list made ready; its pictures are in the store, with and without the bundle.
        bundle: the gates' bundle.
        part: of the shards, from 0: every `parts`-th one.
        parts: how many workers share the looking.
    """
    both = [(which, shard) for which in (None, bundle) for shard in shards(plan, which)]
    mine, mine_moved = both[part::parts], list(pairs(_drawn(plan, bundle)))[part::parts]
    store, total = places.store(), sum(len(shard.rows) for _, shard in mine)
    with open_observers(plan, places) as (observers, holes):
        if parts == 1:  # a part's worker has no use for statistics of real pictures, which scores are known by too
            references = _references(places, plan, observers)
            address = content_hash(_determined_by(plan, bundle, observers, holes, references))[:24]
            if places.holds(f"scores/{address}"):
                return len(mine)
        there = {
            shard.address: len(shard.rows)
            for _, shard in mine
            if all(store.has(key) for key in observation_keys(plan, shard, observers))
        }
        with progress("looking", total, "picture", initial=sum(there.values())) as done:
            for which, shard in mine:
                look_at(places, plan, which, shard, observers)
                if shard.address not in there:
                    done(len(shard.rows))
            for before, after in mine_moved:
                look_at_moved(places, plan, bundle, before, after, observers)
    return len(mine)


def _drawn(plan: Plan, bundle: str) -> dict[str, list[Shard]]:
    """Returns the shards of both phases."""
    return {phase: list(shards(plan, bundle if phase == "after" else None)) for phase in PHASES}


def _determined_by(
    plan: Plan,
    bundle: str,
    observers: Mapping[str, Observer],
    holes: Sequence[str],
    references: Mapping[str, tuple[Statistics, str]],
) -> dict[str, Any]:
    """Returns everything that determines the scores; metrics that came later only where there are any."""
    later = sorted(METRICS.keys() - FIRST_METRICS)
    asked = {  # what a file's rows ask for, which pictures' addresses do not tell
        each.name: content_hash([row.concept for row in each.pictures(plan.profile)])
        for each in plan.sets
        if each.about
    }
    return (
        ({"metrics": later} if later else {})
        | {
            "measures": MEASURES,
            "sets": [each.model_dump(exclude={"csv", "columns", "rows"}) for each in plan.sets],
            "observers": [[name, observer.identity] for name, observer in observers.items()],
            "pictures": {phase: [shard.address for shard in own] for phase, own in _drawn(plan, bundle).items()},
            "references": {name: of for name, (_, of) in references.items()},
            "profile": plan.profile.name,
            "bundle": bundle,
            "holes": list(holes),
        }
        | ({"asked": asked} if asked else {})
    )


def measure(places: Places, plan: Plan, bundle: str) -> str:
    """Scores what was seen in both sets of pictures, and the gates' openness; stores the scores as one artifact.

    It looks at no picture: `look_at_pictures` has, and whatever it stored is read.

    Args:
        places: where what was seen, and the scores, are stored.
        plan: the list made ready; its pictures were looked at, with and without the bundle.
        bundle: the gates' bundle.

    Returns:
        The scores' address.

    Raises:
        StoreError: some pictures were not looked at, or what was seen in them is damaged.
    """
    drawn = _drawn(plan, bundle)
    with ExitStack() as held:
        observers, holes = held.enter_context(open_observers(plan, places))
        references = _references(places, plan, observers)
        determined_by = _determined_by(plan, bundle, observers, holes, references)
        address = content_hash(determined_by)[:24]
        if places.holds(f"scores/{address}"):
            return address
        gathered = Gathered(held.enter_context(places.scratch()))
        for phase, own in drawn.items():
            for shard in own:
                gathered.add(shard.of.name, phase, seen_in(places, plan, shard, observers))
        for before, after in pairs(drawn):
            gathered.add(after.of.name, "after", moved_in(places, before, after, observers))
        sets = [_seen(each, [shard for shard in drawn["before"] if shard.of == each], gathered) for each in plan.sets]
        openness = openness_of(places, plan, bundle)
        provenance = {"profile": plan.profile.name, "base_model": plan.concepts.base_model, "bundle": bundle}
        scored = score_sets(
            sets,
            features=plan.profile.features,
            logit_scale=getattr(observers.get("clip"), "logit_scale", None),
            references={name: found for name, (found, _) in references.items()},
        )
        rows = [as_row(each, provenance) for each in (*scored, *openness_scores(openness))]
        detail = {"openness": openness, "holes": holes, "moved_most": moved_most(drawn, sets)}
        folder = held.enter_context(places.scratch())
        write_table(folder / "scores.parquet", rows, SCORES)
        write_table(folder / "pictures.parquet", list(_picture_rows(plan, drawn, sets, bundle)), PICTURES)
        (folder / "detail.json").write_text(json.dumps(detail))
        (folder / "manifest.json").write_text(json.dumps({"format": 2, **determined_by}, indent=1))
        places.store().put(f"scores/{address}", folder)
    return address


def _references(places: Places, plan: Plan, observers: Mapping[str, Observer]) -> dict[str, tuple[Statistics, str]]:
    """Returns statistics of the real pictures that the user has for a set, where FID is over Inception's features."""
    observer = observers.get("inception")
    if observer is None:
        return {}
    found = {each.name: reference_statistics(places, each.name, observer) for each in plan.sets}
    return {name: reference for name, reference in found.items() if reference is not None}


def _seen(each: EvaluationSet, own: list[Shard], gathered: Gathered) -> SetSeen:
    """Returns what was seen in one set."""
    rows = [row for shard in own for row in shard.rows]
    other = domain_of(each.domain).aside
    return SetSeen(
        name=each.name,
        role=each.role,
        domain=each.domain,
        concepts=np.array([row.concept or "" for row in rows]),
        prompt_ids=np.array([row.prompt_id for row in rows]),
        named=np.array([_named(row.prompt, other) for row in rows]),
        seen={phase: gathered.of(each.name, phase) for phase in PHASES},
    )


def _named(prompt: str, value: str) -> str:
    """Returns the noun or style that a prompt names, of those the embedded classifier knows; "" for none."""
    return named(prompt, KNOWN.get(value, ())) or ""


def _picture_rows(
    plan: Plan, drawn: dict[str, list[Shard]], sets: list[SetSeen], bundle: str
) -> Iterator[dict[str, Any]]:
    """Yields every picture of both phases with what it was taken for."""
    by_name = {each.name: each for each in sets}
    for phase, own in drawn.items():
        taken = dict.fromkeys(by_name, 0)
        for shard in own:
            found = recognised(by_name[shard.of.name], phase)
            for index, row in enumerate(shard.rows):
                yield {
                    **{
                        name: getattr(row, name)
                        for name in ("picture_id", "prompt_id", "prompt", "concept", "template")
                    },
                    "seed": row.seed,
                    "role": shard.of.role,
                    "set": shard.of.name,
                    "domain": shard.of.domain,
                    "phase": phase,
                    "shard": shard.address,
                    "path": file_name(index),
                    "recognised": None if found is None else str(found[taken[shard.of.name]]) or None,
                    "profile": plan.profile.name,
                    "base_model": plan.concepts.base_model,
                    "bundle": bundle if phase == "after" else None,
                }
                taken[shard.of.name] += 1

"""Metrics: what observers say of the pictures, before and after."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from typing import Any

import numpy as np
from prefect import task

from artifacts.hashing import content_hash
from artifacts.tables import PICTURES, SCORES, write_table
from cpe.embedded.subjects import KNOWN
from cpe.evaluation.pictures import EvaluationSet, first_prompts
from cpe.evaluation.scoring import PHASES, Scored, SetSeen, as_row, recognised, score_sets
from cpe.metrics.reference import Statistics
from cpe.metrics.score import mean_score
from cpe.observers.base import Observer
from cpe.terms.domains import domain_of
from cpe.terms.templates import named
from tasks.draw import Shard, file_name, shards
from tasks.evaluation.gather import Gathered
from tasks.evaluation.look import observation_keys, observe, open_observers
from tasks.evaluation.moved import moved, moved_most, pairs
from tasks.evaluation.references import reference_statistics
from tasks.here.places import Places
from tasks.here.progress import progress
from tasks.plan import Plan
from tasks.train import gates_of_bundle

MEASURES = 6  # raised when the same pictures would get other scores


@task(retries=1)
def look_at_pictures(plan: Plan, bundle: str, part: int = 0, parts: int = 1) -> int:
    """Stores what observers see in the pictures of both phases, for a part of their shards; returns how many.

    Args:
        plan: the list made ready; its pictures are in the store, with and without the bundle.
        bundle: the gates' bundle.
        part: of the shards, from 0: every `parts`-th one.
        parts: how many workers share the looking.
    """
    places = Places.from_environment()
    both = ((which, shard) for which in (None, bundle) for shard in shards(plan, which))
    mine = list(islice(both, part, None, parts))
    store, total = places.store(), sum(len(shard.rows) for _, shard in mine)
    with open_observers(plan, places) as (observers, _):
        left = [
            (which, shard)
            for which, shard in mine
            if not all(store.has(key) for key in observation_keys(plan, shard, observers))
        ]
        there = total - sum(len(shard.rows) for _, shard in left)
        with progress("looking", total, "picture", initial=there) as done:
            for which, shard in left:
                observe(places, plan, which, shard, observers)
                done(len(shard.rows))
    return len(mine)


@task(retries=1)
def measure(plan: Plan, bundle: str) -> str:
    """Scores both sets of pictures and the gates' openness, and stores the scores as one artifact.

    Args:
        plan: the list made ready; its pictures are in the store, with and without the bundle.
        bundle: the gates' bundle.

    Returns:
        The scores' address.
    """
    places = Places.from_environment()
    parts = {phase: list(shards(plan, bundle if phase == "after" else None)) for phase in PHASES}
    with ExitStack() as held:
        observers, holes = held.enter_context(open_observers(plan, places))
        references = _references(places, plan, observers)
        determined_by = {
            "measures": MEASURES,
            "sets": [each.model_dump(exclude={"csv", "columns", "rows"}) for each in plan.sets],
            "observers": [[name, observer.identity] for name, observer in observers.items()],
            "pictures": {phase: [shard.address for shard in part] for phase, part in parts.items()},
            "references": {name: of for name, (_, of) in references.items()},
            "profile": plan.profile.name,
            "bundle": bundle,
            "holes": holes,
        }
        address = content_hash(determined_by)[:24]
        if places.holds(f"scores/{address}"):
            return address
        gathered = Gathered(held.enter_context(places.scratch()))
        for phase, part in parts.items():
            for shard in part:
                values = observe(places, plan, bundle if phase == "after" else None, shard, observers)
                gathered.add(shard.of.name, phase, values)
        for before, after in pairs(parts):
            gathered.add(after.of.name, "after", moved(places, plan, bundle, before, after, observers))
        sets = [_seen(each, [shard for shard in parts["before"] if shard.of == each], gathered) for each in plan.sets]
        openness = _openness(places, plan, bundle)
        provenance = {"profile": plan.profile.name, "base_model": plan.concepts.base_model, "bundle": bundle}
        scored = score_sets(
            sets,
            features=plan.profile.features,
            logit_scale=getattr(observers.get("clip"), "logit_scale", None),
            references={name: found for name, (found, _) in references.items()},
        )
        rows = [as_row(each, provenance) for each in (*scored, *_openness_scores(openness))]
        detail = {"openness": openness, "holes": holes, "moved_most": moved_most(parts, sets)}
        folder = held.enter_context(places.scratch())
        write_table(folder / "scores.parquet", rows, SCORES)
        write_table(folder / "pictures.parquet", list(_picture_rows(plan, parts, sets, bundle)), PICTURES)
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


def _seen(each: EvaluationSet, part: list[Shard], gathered: Gathered) -> SetSeen:
    """Returns what was seen in one set."""
    rows = [row for shard in part for row in shard.rows]
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
    plan: Plan, parts: dict[str, list[Shard]], sets: list[SetSeen], bundle: str
) -> Iterator[dict[str, Any]]:
    """Yields every picture of both phases with what it was taken for."""
    by_name = {each.name: each for each in sets}
    for phase, part in parts.items():
        taken = dict.fromkeys(by_name, 0)
        for shard in part:
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


def _openness(places: Places, plan: Plan, bundle: str) -> list[dict[str, Any]]:
    """Returns how open every gate is at every token, for each concept in the first evaluation template.

    Nothing where the list's method has no gates.
    """
    import torch

    from cpe.methods.erased import Erased
    from cpe.models.text import encode_prompts, token_words

    pipe = places.loaded(plan.concepts.base_model)
    erased = Erased.load(gates_of_bundle(places, bundle))
    own = [each for each in plan.sets if each.name in ("erased", "kept")]
    prompts = [(each.role, row) for each, row in first_prompts(own, plan.profile)]
    with torch.no_grad():
        openness = erased.openness(encode_prompts(pipe, [row.prompt for _, row in prompts]))  # (N, B, T)
    if openness is None:
        return []
    shown = []
    order = [erased.concepts.index(gate.concept) for gate in plan.gates]
    openness = openness[order]
    for index, (role, row) in enumerate(prompts):
        tokens = token_words(pipe, row.prompt)
        name = token_words(pipe, row.concept or "")[1:-1]
        # A causal text encoder sums the prompt up at the end token: the concept is told there too.
        carrying = _places(name, tokens) | {len(tokens) - 1}
        shown.append(
            {
                "concept": row.concept,
                "role": role,
                "prompt": row.prompt,
                "tokens": tokens,
                "of_concept": [place in carrying for place in range(len(tokens))],
                "gates": [gate.concept for gate in plan.gates],
                "openness": [[round(v, 4) for v in gate[: len(tokens)].tolist()] for gate in openness[:, index]],
            }
        )
    return shown


def _places(name: list[str], tokens: list[str]) -> set[int]:
    """Returns where the name's tokens stand, one after the other, among the prompt's."""
    starts = [i for i in range(len(tokens) - len(name) + 1) if tokens[i : i + len(name)] == name]
    return {start + offset for start in starts for offset in range(len(name))}


def _openness_scores(openness: list[dict[str, Any]]) -> Iterator[Scored]:
    """Yields how open gates get on the tokens that carry a concept (its own and the end token), a concept a value.

    For an erased concept that is its own gate, for a kept one whichever opens widest.
    """
    seen: dict[str, list[float]] = {"erased": [], "kept": []}
    for row in openness:
        gates = dict(zip(row["gates"], row["openness"], strict=True))
        watched = [gates[row["concept"]]] if row["role"] == "erased" else list(gates.values())
        carrying = [place for place, counts in enumerate(row["of_concept"]) if counts]
        seen[row["role"]].append(max(gate[place] for gate in watched for place in carrying))
    for role, values in seen.items():
        if values:
            score = mean_score("gate openness", np.array(values), unit="share")
            yield Scored("gate_openness", "after", role, "all", score)

"""Versions without training: what a run leaves, written by hand."""

import json
from pathlib import Path

from artifacts.tables import SCORES, write_table
from cpe.lists.reading import load_list
from tasks.here.places import Places
from tasks.plan import GatePlan, Plan


def plan_of(path: Path) -> Plan:
    """Returns a list's plan, with gates that nobody trained."""
    concepts = load_list(path)
    gates = tuple(
        GatePlan(concept=each.name, names=(each.name,), surrogate="object", anchors=("dog",), address=each.name * 3)
        for each in concepts.targets
    )
    return Plan(
        source=str(path), concepts=concepts, fingerprint="f" * 24, text_fingerprint="t" * 24, gates=gates, sets=(),
        notes=(), listed_hash=concepts.content_hash,
    )  # fmt: skip


def score_row(role: str, group: str, phase: str, value: float, count: int = 200) -> dict:
    return {
        "metric": "noun_accuracy", "phase": phase, "role": role, "group": group, "value": value, "low": None,
        "high": None, "count": count, "unit": "share", "profile": "embedded", "base_model": "embedded", "bundle": "b",
    }  # fmt: skip


def store_scores(plan: Plan, erased: dict[str, float], kept: dict[str, float], manifest: dict | None = None) -> str:
    """Stores scores as an evaluation would have, a concept 200 pictures, and returns their address."""
    rows = []
    for role, values in (("erased", erased), ("kept", kept)):
        for phase in ("before", "after"):
            found = values if phase == "after" else dict.fromkeys(values, 1.0)
            rows += [score_row(role, name, phase, value) for name, value in found.items()]
            rows.append(score_row(role, "all", phase, sum(found.values()) / len(found), 200 * len(found)))
    places, address = Places.from_environment(), f"{plan.bundle}-{plan.concepts.evaluation.seeds}"
    if not places.store().has(f"scores/{address}"):
        with places.scratch() as folder:
            write_table(folder / "scores.parquet", rows, SCORES)
            (folder / "detail.json").write_text(json.dumps({"holes": [], "openness": []}))
            (folder / "manifest.json").write_text(json.dumps(manifest or {}))
            places.store().put(f"scores/{address}", folder)
    return address

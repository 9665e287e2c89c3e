"""The report of a run: gathers what is stored and writes one HTML file."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from artifacts.disk import write_whole
from artifacts.report import page
from artifacts.report.html import render_report
from artifacts.tables import PICTURES, iter_rows
from tasks.figures import H0, Scores, accuracy_metric, figures
from tasks.here.places import Places
from tasks.plan import Plan
from tasks.promotion.bars import judge
from tasks.register import Decision, Registered
from tasks.report.grids import GRID_ROWS, grid_of, moved_grid
from tasks.show import show_report
from tasks.train import gate_folders

HEAT_PROMPTS = 24
LOSS_CONCEPTS = 24
REPORTED = "reported"  # the tag that says which standing of the version its report tells
PACKAGES = ("torch", "diffusers", "transformers", "prefect", "mlflow")


def write_report(
    places: Places,
    plan: Plan,
    registered: Registered,
    decision: Decision,
    scores_address: str,
    seconds: Mapping[str, float],
    trained: list[list[str]],
) -> str:
    """Writes the run's report into the work folder, adds it to the MLflow run, and returns its path."""
    name = f"{plan.concepts.name}-v{registered.version}-{registered.run_id[:8]}.html"
    path = places.work / "reports" / name
    registry, status = places.registry(), "champion" if decision.champion else "; ".join(decision.against)
    if path.exists() and registry.resolve(f"{registered.model}/{registered.version}").tags.get(REPORTED) == status:
        return str(path)  # the report of the run that made this version stays while it is true
    scores = Scores.of(places, scores_address)
    stored = places.fetched(f"scores/{scores_address}")
    detail = json.loads((stored / "detail.json").read_text())
    manifests = {
        gate.concept: json.loads((folder / "manifest.json").read_text())
        for gate, folder in zip(plan.gates, gate_folders(places, plan), strict=True)
    }
    grids = [grid for role in ("erased", "kept") if (grid := grid_of(places, plan, stored, role)).rows]
    far = moved_grid(places, plan, detail["moved_most"])
    html = render_report(
        page.Report(
            title=f"Erased from {plan.concepts.base_model}: {_names_of(plan)}",
            list_name=plan.concepts.name,
            base_model=plan.concepts.base_model,
            profile=plan.profile.name,
            settings=plan.profile.drawing | {"guidance_scale": plan.profile.guidance_scale},
            created_at=datetime.now(UTC),
            bundle=plan.bundle,
            model=registered.model,
            version=str(registered.version),
            promoted=decision.champion,
            why_not=decision.against,
            bars=judge(plan, scores),
            summary=[*figures(plan, scores), *_openness(scores)],
            concepts=_concept_rows(plan, scores, stored),
            styles=_style_rows(scores),
            grids=[*grids, far] if far.rows else grids,
            heat_maps=_heat_maps(detail["openness"]),
            losses=_losses(plan, dict(list(manifests.items())[:LOSS_CONCEPTS])),
            seconds=seconds,
            repeat=_repeat(plan, registered, scores_address),
            notes=[*detail["holes"], *_notes(plan, scores, sum(len(group) for group in trained))],
            published=[page.Published(each.source, each.profile, each.figures) for each in plan.concepts.published],
        )
    )
    with places.scratch() as folder:
        (folder / path.name).write_text(html)
        registry.attach(registered.run_id, {"report": folder / path.name})
        registry.set_tags(registered.model, registered.version, {REPORTED: status})
        write_whole(path, html)  # last: a report that is here is beside the version's files too
    erased = [row for grid in grids[:1] for row in grid.rows if row.before]
    show_report(plan.concepts.name, path, [row.before[0] for row in erased], [row.after[0] for row in erased])
    return str(path)


def _names_of(plan: Plan) -> str:
    names = [gate.concept for gate in plan.gates]
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])} and {len(names) - 10} more"


def _openness(scores: Scores) -> list[page.Figure]:
    own = scores.change("gate_openness", "erased")
    widest = scores.change("gate_openness", "kept")
    energy = scores.change("residual_energy", "kept")
    shown = [
        page.Figure("Openness of an erased concept's own gate, over concepts", own, better="higher"),
        page.Figure("Openness of the widest gate at a kept concept, over concepts", widest),
        page.Figure("Energy that residuals add to a kept concept's keys and values", energy),
    ]
    return [figure for figure in shown if figure.change.after is not None]


def _concept_rows(plan: Plan, scores: Scores, stored: Path) -> list[page.ConceptRow]:
    others: dict[str, Counter[str]] = {}
    for row in iter_rows(stored / "pictures.parquet", PICTURES):
        seen, concept = row["recognised"], row["concept"]
        if row["phase"] == "after" and row["set"] in GRID_ROWS and seen is not None and seen != concept:
            others.setdefault(concept, Counter())[seen] += 1
    made = []
    named: list[tuple[page.Role, list[str]]] = [
        ("erased", [gate.concept for gate in plan.gates]),
        ("kept", list(plan.concepts.kept)),
    ]
    for role, names in named:
        for name in names:
            change = scores.change(accuracy_metric(plan), role, name)
            if change.after is not None:
                most = others[name].most_common(1)[0][0] if name in others else None
                made.append(
                    page.ConceptRow(name, role, change, most, scores.value("kept_distance", "after", role, name))
                )
    return made


def _style_rows(scores: Scores) -> list[page.StyleRow]:
    groups = dict.fromkeys(
        row["group"] for row in scores.rows if row["metric"] == "style_accuracy" and row["group"].startswith("style ")
    )
    return [
        page.StyleRow(
            group.removeprefix("style "),
            scores.change("noun_accuracy", "kept", group),
            scores.change("style_accuracy", "kept", group),
        )
        for group in groups
    ]


def _heat_maps(openness: list[dict[str, Any]]) -> list[page.HeatMap]:
    erased = [row for row in openness if row["role"] == "erased"][:HEAT_PROMPTS]
    kept = [row for row in openness if row["role"] == "kept"][: HEAT_PROMPTS // 4]
    if not openness:
        return []
    gates = openness[0]["gates"][:HEAT_PROMPTS]
    rows = [page.HeatPrompt(row["prompt"], row["tokens"], row["openness"][: len(gates)]) for row in erased + kept]
    return [page.HeatMap(gates, rows)]


def _losses(plan: Plan, manifests: Mapping[str, dict[str, Any]]) -> list[page.LossCurve]:
    return [
        page.LossCurve(concept, curve.loss, curve.stages)
        for concept, manifest in manifests.items()
        for curve in plan.method.curves(manifest["training"], manifest.get("losses", []))
    ]


def _repeat(plan: Plan, registered: Registered, scores: str) -> dict[str, Any]:
    return {
        "command": f"cpe erase {shlex.quote(plan.source)}",
        "list": plan.concepts.model_dump(mode="json"),
        "list hash": plan.concepts.content_hash,
        "method": plan.method.name,
        "training": plan.concepts.training_config.model_dump(),
        "profile": plan.profile.model_dump(),
        "base model fingerprint": plan.fingerprint,
        "gates": {gate.concept: gate.address for gate in plan.gates},
        "bundle": plan.bundle,
        "scores": scores,
        "run": registered.run_id,
        "packages": {name: version(name) for name in PACKAGES},
    }


def _notes(plan: Plan, scores: Scores, trained: int) -> list[str]:
    reused = len(plan.gates) - trained
    what = "concepts" if plan.method.joint else "gates"
    notes = [f"{trained} of {len(plan.gates)} {what} were trained in this run, {reused} were in the store already."]
    if "h0" in scores.metrics:
        notes.append(f"{H0}.")
    if "fid_embedded" in scores.metrics:
        notes.append(
            "FID and KID compare the kept pictures before and after erasing, over the embedded classifier's 128 "
            "features; they are not comparable with figures over Inception features."
        )
    if plan.concepts.anchors.protocol == "leak-free" and plan.concepts.kept:
        notes.append("Kept concepts were never anchors: training did not see what the evaluation keeps.")
    return [*notes, *plan.notes]

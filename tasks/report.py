"""The report of a run: gathers what is stored and writes one HTML file."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect import task

from artifacts import report_input as page
from artifacts.report import render_report
from artifacts.tables import IMAGES, read_table
from tasks.measure import EMBEDDED_FEATURES
from tasks.places import Places
from tasks.prepare import Plan
from tasks.publish import Registered, Scores, judge
from tasks.show import show_report

GRID_SEEDS = 3
GRID_ROWS_KEPT = 12
HEAT_PROMPTS_KEPT = 6
PACKAGES = ("torch", "diffusers", "transformers", "prefect", "mlflow")


@task(retries=1)
def write_report(
    plan: Plan,
    registered: Registered,
    champion: bool,
    pictures: Mapping[str, str],
    scores_address: str,
    seconds: Mapping[str, float],
    trained: list[list[str]],
) -> str:
    """Writes the run's report into the work folder, adds it to the MLflow run, and returns its path."""
    places = Places.from_environment()
    name = f"{plan.concepts.name}-v{registered.version}-{registered.run_id[:8]}.html"
    path = places.work / "reports" / name
    if path.exists():
        return str(path)  # the report of the run that made this version stays
    scores = Scores.of(places, scores_address)
    detail = json.loads((places.fetched(f"scores/{scores_address}") / "detail.json").read_text())
    folders = {phase: places.fetched(f"pictures/{address}") for phase, address in pictures.items()}
    rows = read_table(folders["before"] / "images.parquet", IMAGES)
    prompts = {row.prompt_id: row for row in plan.evaluation()}
    rows = [{**vars(prompts[row["prompt_id"]]), **row} for row in rows]
    manifests = {
        gate.concept: json.loads((places.fetched(f"gates/{gate.address}") / "manifest.json").read_text())
        for gate in plan.gates
    }
    concepts = ", ".join(gate.concept for gate in plan.gates)
    grids = _grids(rows, folders, plan)
    html = render_report(
        page.Report(
            title=f"Erased from {plan.concepts.base_model}: {concepts}",
            list_name=plan.concepts.name,
            base_model=plan.concepts.base_model,
            profile=plan.profile.name,
            settings=plan.profile.model_dump(),
            created_at=datetime.now(UTC),
            bundle=plan.bundle,
            model=registered.model,
            version=str(registered.version),
            promoted=champion,
            bars=judge(plan, scores),
            summary=_summary(plan, scores),
            concepts=_concept_rows(plan, scores, rows, detail),
            styles=_style_rows(plan, scores),
            grids=grids,
            heat_maps=_heat_maps(plan, detail["openness"]),
            losses=_losses(manifests),
            seconds=seconds,
            repeat=_repeat(plan, registered, pictures, scores_address),
            notes=_notes(plan, scores, sum(len(group) for group in trained)),
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_text(html)
    path.with_suffix(".part").replace(path)
    places.registry().attach(registered.run_id, {"report": path})
    erased = [row for row in grids[0].rows if row.before]
    show_report(plan.concepts.name, path, [row.before[0] for row in erased], [row.after[0] for row in erased])
    return str(path)


def _change(scores: Scores, metric: str, role: str, group: str = "all") -> page.Change:
    after = scores.row(metric, "after", role, group) or {}
    return page.Change(
        scores.value(metric, "before", role, group),
        after.get("value"),
        after.get("low"),
        after.get("high"),
        after.get("count", 0),
    )


def _summary(plan: Plan, scores: Scores) -> list[page.Figure]:
    domain, other = plan.concepts.domain, plan.other_domain
    return [
        page.Figure("Accuracy on erased concepts", _change(scores, f"{domain}_accuracy", "erased"), answers="erased"),
        page.Figure(
            "Accuracy on kept concepts", _change(scores, f"{domain}_accuracy", "kept"), better="higher", answers="kept"
        ),
        page.Figure("H0", _change(scores, "h0", "all"), better="higher"),
        page.Figure(
            f"{other.capitalize()} accuracy on kept concepts",
            _change(scores, f"{other}_accuracy", "kept"),
            better="higher",
        ),
        page.Figure(
            f"{other.capitalize()} accuracy on erased concepts",
            _change(scores, f"{other}_accuracy", "erased"),
            better="higher",
        ),
        page.Figure("CLIP score on erased concepts (embedded CLIP)", _change(scores, "clip_score", "erased"), "points"),
        page.Figure(
            "CLIP score on kept concepts (embedded CLIP)", _change(scores, "clip_score", "kept"), "points", "higher"
        ),
        page.Figure(
            "Openness of an erased concept's own gate, over concepts",
            _change(scores, "gate_openness", "erased"),
            better="higher",
        ),
        page.Figure(
            "Openness of the widest gate at a kept concept, over concepts", _change(scores, "gate_openness", "kept")
        ),
        page.Figure(
            f"FID of kept, before to after, {EMBEDDED_FEATURES}", _change(scores, "fid_embedded", "kept"), "distance"
        ),
        page.Figure(
            f"KID of kept, before to after, {EMBEDDED_FEATURES}", _change(scores, "kid_embedded", "kept"), "distance"
        ),
    ]


def _concept_rows(
    plan: Plan, scores: Scores, rows: list[dict[str, Any]], detail: dict[str, Any]
) -> list[page.ConceptRow]:
    domain = plan.concepts.domain
    recognised = detail["recognised"]["after"][domain]
    made = []
    named: list[tuple[page.Role, list[str]]] = [
        ("erased", [gate.concept for gate in plan.gates]),
        ("kept", list(plan.concepts.kept)),
    ]
    for role, names in named:
        for name in names:
            others = Counter(
                seen for seen, row in zip(recognised, rows, strict=True) if row["concept"] == name and seen != name
            )
            most = others.most_common(1)[0][0] if others else None
            made.append(page.ConceptRow(name, role, _change(scores, f"{domain}_accuracy", role, name), most))
    return made


def _style_rows(plan: Plan, scores: Scores) -> list[page.StyleRow]:
    other = plan.other_domain
    if other != "style":
        return []
    groups = dict.fromkeys(
        row["group"] for row in scores.rows if row["metric"] == "style_accuracy" and row["group"].startswith("style ")
    )
    return [
        page.StyleRow(
            group.removeprefix("style "),
            _change(scores, "noun_accuracy", "kept", group),
            _change(scores, "style_accuracy", "kept", group),
        )
        for group in groups
    ]


def _grids(rows: list[dict[str, Any]], folders: Mapping[str, Path], plan: Plan) -> list[page.Grid]:
    seeds = min(GRID_SEEDS, plan.concepts.evaluation.seeds)
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    templates = len(plan.concepts.evaluation.templates)
    grids = []
    for role, title in (("erased", "Erased"), ("kept", "Kept")):
        concepts = [gate.concept for gate in plan.gates] if role == "erased" else plan.concepts.kept
        shown = concepts if role == "erased" else concepts[:GRID_ROWS_KEPT]
        grid_rows = []
        for index, concept in enumerate(shown):
            wanted = index % templates
            drawn = next(
                group
                for group in by_prompt.values()
                if group[0]["concept"] == concept and group[0]["template"] == wanted
            )[:seeds]
            pictures = {
                phase: [(folder / row["path"]).read_bytes() for row in drawn] for phase, folder in folders.items()
            }
            grid_rows.append(page.GridRow(concept, drawn[0]["prompt"], pictures["before"], pictures["after"]))
        note = "The same prompts and seeds before and after."
        if len(shown) < len(concepts):
            note += f" The first {len(shown)} of {len(concepts)} kept concepts are shown; all are measured."
        grids.append(page.Grid(title, [f"seed {seed}" for seed in range(seeds)], grid_rows, note))
    return grids


def _heat_maps(plan: Plan, openness: list[dict[str, Any]]) -> list[page.HeatMap]:
    erased = [row for row in openness if row["role"] == "erased"]
    kept = [row for row in openness if row["role"] == "kept"][:HEAT_PROMPTS_KEPT]
    rows = [page.HeatPrompt(row["prompt"], row["tokens"], row["openness"]) for row in erased + kept]
    return [page.HeatMap(openness[0]["gates"], rows)] if rows else []


def _losses(manifests: Mapping[str, dict[str, Any]]) -> list[page.LossCurve]:
    curves = []
    for concept, manifest in manifests.items():
        config = manifest["training"]
        for part in page.LOSS_PARTS:
            stages: list[list[tuple[int, float]]] = [[] for _ in range(config["stages"])]
            for point in manifest["losses"]:
                stage = point["stage"]
                if point["phase"] != "erase" or (part == "adversarial" and stage == 0):
                    continue
                before = 0 if stage == 0 else config["first_steps"] + (stage - 1) * config["later_steps"]
                stages[stage].append((before + point["step"], point[part]))
            curves.append(page.LossCurve(concept, part, stages))
    return curves


def _repeat(plan: Plan, registered: Registered, pictures: Mapping[str, str], scores: str) -> dict[str, Any]:
    return {
        "command": f"cpe erase {shlex.quote(plan.source)}",
        "list": plan.concepts.model_dump(mode="json"),
        "list hash": plan.concepts.content_hash,
        "training": plan.concepts.training_config.model_dump(),
        "profile": plan.profile.model_dump(),
        "base model fingerprint": plan.fingerprint,
        "gates": {gate.concept: gate.address for gate in plan.gates},
        "bundle": plan.bundle,
        "pictures": dict(pictures),
        "scores": scores,
        "run": registered.run_id,
        "packages": {name: version(name) for name in PACKAGES},
    }


def _notes(plan: Plan, scores: Scores, trained: int) -> list[str]:
    reused = len(plan.gates) - trained
    notes = [f"{trained} of {len(plan.gates)} gates were trained in this run, {reused} were in the store already."]
    if scores.value("fid_embedded", "after", "kept") is not None:
        notes.append(
            "FID and KID compare the kept pictures before and after erasing, over the embedded classifier's 128 "
            "features; they are not comparable with figures over Inception features."
        )
    if plan.concepts.anchors.exclude_kept:
        notes.append("Kept concepts were never anchors: training did not see what the evaluation keeps.")
    return [*notes, *plan.notes]

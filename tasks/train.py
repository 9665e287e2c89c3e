"""Training of the gates a list lacks, and the bundle of all of them."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from shutil import copytree
from typing import Any

from prefect import task

from artifacts.hashing import content_hash, file_hash
from tasks.places import Places
from tasks.prepare import GatePlan, Plan, load_embeddings
from tasks.progress import progress

GATES_AT_ONCE = 16
CURVE_POINTS = 60


def missing_gates(plan: Plan) -> list[GatePlan]:
    """Returns the gates that the store does not hold yet."""
    store = Places.from_environment().store()
    return [gate for gate in plan.gates if not store.has(f"gates/{gate.address}")]


@task
def plan_training(plan: Plan) -> list[list[str]]:
    """Returns the concepts still to be trained, in groups that train as one batch."""
    from cpe.models import chunks

    by_names: dict[int, list[str]] = {}  # gates that train together need the same number of prompts
    for gate in missing_gates(plan):
        by_names.setdefault(len(gate.names), []).append(gate.concept)
    return [list(group) for alike in by_names.values() for group in chunks(alike, GATES_AT_ONCE)]


@task(retries=1)
def train_gates(plan: Plan, concepts: list[str]) -> list[str]:
    """Trains gates stage by stage, stores each, and returns their addresses."""
    from cpe.projections import BaseProjections
    from cpe.training import ConceptTexts, fresh_gates, steps_in_all, train

    places = Places.from_environment()
    config = plan.concepts.training_config
    chosen = plan.gates_of(concepts)
    rows, embeddings = load_embeddings(places, plan, chosen)
    pipe = places.loaded(plan.concepts.base_model)
    base = BaseProjections.of(pipe.unet, tokens=embeddings.shape[1], device=pipe.device)
    embeddings = embeddings.to(pipe.device)
    texts = []
    for gate in chosen:
        parts = {
            part: embeddings[[rows[prompt] for prompt in prompts]]
            for part, prompts in gate.prompts(plan.concepts.templates).items()
        }
        texts.append(ConceptTexts(gate.concept, seed=_seed(plan, gate), **parts))
    gates = fresh_gates(texts, base, config)
    curves: list[list[dict[str, Any]]] = [[] for _ in chosen]
    label = f"training {len(chosen)} gate{'s' if len(chosen) > 1 else ''}"
    with progress(label, steps_in_all(config), "step") as done:
        for record in train(gates, texts, base, embeddings[rows[""]], config):
            done(note=f"stage {record.stage + 1}/{config.stages} {record.phase}")
            if record.step % max(1, record.steps // CURVE_POINTS) == 0 or record.step == record.steps - 1:
                for index, curve in enumerate(curves):
                    curve.append(
                        {
                            "stage": record.stage,
                            "phase": record.phase,
                            "step": record.step,
                            "erase": record.erase[index],
                            "adversarial": record.adversarial[index],
                            "anchor": record.anchor[index],
                        }
                    )
    for index, gate in enumerate(chosen):
        _store_gate(places, plan, gate, gates[index : index + 1], base.names, curves[index])
    return [gate.address for gate in chosen]


def _seed(plan: Plan, gate: GatePlan) -> int:
    """A concept's own seed: it does not depend on its neighbours in the list."""
    return int(content_hash([plan.concepts.seed, gate.concept])[:12], 16)


def _store_gate(places: Places, plan: Plan, gate: GatePlan, gates: Any, sites: Sequence[str], curve: list) -> None:
    from safetensors.torch import save_file

    from cpe.gatefile import FILE_NAME, MANIFEST_NAME, metadata_of, to_tensors

    with places.scratch() as folder:
        save_file(to_tensors(gates, sites), folder / FILE_NAME, metadata_of(gates, [gate.concept]))
        manifest = {
            "format": 1,
            "address": gate.address,
            "concept": gate.concept,
            "names": gate.names,
            "surrogate": gate.surrogate,
            "anchors": gate.anchors,
            "anchors_hash": content_hash(gate.anchors),
            "templates": plan.concepts.templates,
            "training": plan.concepts.training_config.model_dump(),
            "tied_qk": gates.config.tied_qk,
            "base_model": plan.concepts.base_model,
            "base_fingerprint": plan.fingerprint,
            "sites": dict(zip(sites, gates.widths, strict=True)),
            "seed": _seed(plan, gate),
            "code_version": version("concept-pinpoint-eraser"),
            "sha256": file_hash(folder / FILE_NAME),
            "losses": curve,
        }
        (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1))
        places.store().put(f"gates/{gate.address}", folder)


@task(retries=2, retry_delay_seconds=2)
def assemble_bundle(plan: Plan) -> str:
    """Stores the list's gates as one bundle and returns its id."""
    from cpe.gatefile import MANIFEST_NAME

    places = Places.from_environment()
    store = places.store()
    if not store.has(f"bundles/{plan.bundle}"):
        with places.scratch() as folder:
            for gate in plan.gates:
                fetched = places.fetched(f"gates/{gate.address}")
                copytree(fetched, folder / "gates" / gate.address)
            (folder / MANIFEST_NAME).write_text(json.dumps(plan.bundle_manifest, indent=1))
            store.put(f"bundles/{plan.bundle}", folder)
    return plan.bundle


def bundle_folder(places: Places, bundle: str) -> Path:
    """Returns a local copy of a bundle that `Eraser.load` takes."""
    return places.fetched(f"bundles/{bundle}")

"""Training of what a list lacks, and the bundle of all of it.

What a method trains is a piece: a gate for each concept, or one for all of them; the store holds it under `gates/`.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import Any

from artifacts.hashing import content_hash, file_hash
from artifacts.kinds.bundle import weights_file, write_manifest
from artifacts.stores.claims import claimed
from artifacts.stores.index import MANIFEST_NAME
from cpe.methods.lessons import Bench, Piece
from tasks.embed import load_embeddings
from tasks.here.places import Places
from tasks.here.progress import progress
from tasks.plan import GatePlan, Plan

GATES_AT_ONCE = 16
TRAINED = "trained"  # folder of gates that no store has taken yet, as they were trained together


def missing_gates(places: Places, plan: Plan) -> list[GatePlan]:
    """Returns the gates that the store does not hold yet."""
    store = places.store()
    return [gate for gate in plan.gates if not store.has(f"gates/{gate.address}")]


def plan_training(places: Places, plan: Plan, part: int = 0, parts: int = 1) -> list[list[str]]:
    """Returns the concepts still to be trained, in groups that train as one batch.

    Args:
        places: whose store may hold some already.
        plan: the list made ready.
        part: of the list's pieces, from 0: every `parts`-th one.
        parts: how many workers share the training.
    """
    from cpe.terms.chunks import chunks

    mine = plan.addresses[part::parts]
    missing = [gate for gate in missing_gates(places, plan) if gate.address in mine]
    if plan.method.joint:
        return [[gate.concept for gate in missing]] if missing else []
    by_names: dict[int, list[str]] = {}  # gates that train together need the same number of prompts
    for gate in missing:
        by_names.setdefault(len(gate.names), []).append(gate.concept)
    return [list(group) for alike in by_names.values() for group in chunks(alike, GATES_AT_ONCE)]


def train_gates(places: Places, plan: Plan, concepts: list[str]) -> list[str]:
    """Trains concepts together, stores what comes of it, and returns their addresses.

    Of several runs that are given the same gate, on this machine or on others that share the store, one trains it; the
    others wait and find it in the store.
    """
    chosen = plan.gates_of(concepts)
    addresses = sorted({gate.address for gate in chosen})  # in one order, so that nobody waits in a circle
    with ExitStack() as held:
        for address in addresses:
            held.enter_context(places.locked(f"gate-{address}"))
        _store_trained(places, chosen)
        store = places.store()
        for address in addresses:
            there = partial(store.has, f"gates/{address}")
            held.enter_context(claimed(store, f"gate-{address}", there, owner=places.owner()))
        missing = [gate for gate in chosen if not store.has(f"gates/{gate.address}")]
        if missing:
            _train(places, plan, missing)
            _store_trained(places, missing)
    return [gate.address for gate in chosen]


def _train(places: Places, plan: Plan, chosen: Sequence[GatePlan]) -> None:
    from cpe.methods.checkpoint import CheckpointError

    method, config = plan.method, plan.concepts.training_config
    texts = load_embeddings(places, plan, chosen)
    lessons = [plan.lesson(gate) for gate in chosen]
    checkpoint = places.work / "checkpoints" / f"{content_hash([gate.address for gate in chosen])[:24]}.safetensors"
    label = f"training {len(chosen)} {'gate' if method.name == 'cpe' else 'concept'}{'s' if len(chosen) > 1 else ''}"
    resumed = False
    with ExitStack() as shown:

        def begin(steps: int, taken: int) -> Callable[[str], Any]:
            nonlocal resumed
            resumed = taken > 0
            done = shown.enter_context(progress(label, steps, "step", initial=taken))
            return lambda said: done(note=said)

        bench = Bench(places.work / "bases", checkpoint, begin)
        start = partial(method.train, lessons, texts, places.loaded(plan.concepts.base_model), config, bench)
        started = time.perf_counter()
        try:
            pieces = start()
        except CheckpointError as error:  # nobody need come to delete it: all that is lost is time
            print(f"cpe: {error}; training from the start", file=sys.stderr)
            checkpoint.unlink()
            pieces = start()
        seconds = None if resumed else round((time.perf_counter() - started) / len(pieces), 3)
    with places.scratch() as folder:
        for own, piece in zip([chosen] if method.joint else [[gate] for gate in chosen], pieces, strict=True):
            _write_piece(folder / "gates" / own[0].address, plan, own, piece, seconds)
        waiting = places.work / TRAINED / checkpoint.stem
        rmtree(waiting, ignore_errors=True)
        waiting.parent.mkdir(parents=True, exist_ok=True)
        (folder / "gates").rename(waiting)  # all of them at once: the checkpoint is of the whole group


def _store_trained(places: Places, gates: Sequence[GatePlan]) -> None:
    """Stores those of the gates that are trained and wait in the work folder, perhaps since a run that was cut off."""
    for gate in gates:
        for folder in sorted((places.work / TRAINED).glob(f"*/{gate.address}")):
            if _is_whole(folder):
                places.store().put(f"gates/{gate.address}", folder)
            rmtree(folder)
            if not any(folder.parent.iterdir()):
                (places.work / "checkpoints" / f"{folder.parent.name}.safetensors").unlink(missing_ok=True)
                folder.parent.rmdir()


def _is_whole(folder: Path) -> bool:
    """Whether a piece that waits in the work folder is what was written there."""
    try:
        return json.loads((folder / MANIFEST_NAME).read_text())["sha256"] == file_hash(weights_file(folder))
    except (OSError, ValueError, KeyError):
        return False


def _write_piece(folder: Path, plan: Plan, gates: Sequence[GatePlan], piece: Piece, seconds: float | None) -> None:
    """Writes a piece and its manifest; `seconds` is its share of the training's, None if that was interrupted."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    path = folder / plan.method.file_name
    save_file(dict(piece.tensors), path, dict(piece.metadata))
    concepts = [
        {
            "concept": gate.concept,
            "names": gate.names,
            "surrogate": gate.surrogate,
            "anchors": gate.anchors,
            "anchors_hash": content_hash(gate.anchors),
            "seed": plan.seed_of(gate),
        }
        for gate in gates
    ]
    manifest = {
        "format": 1,
        "address": gates[0].address,
        "method": plan.method.name,
        **({"concepts": concepts} if plan.method.joint else concepts[0]),
        "templates": plan.concepts.templates,
        "training": plan.concepts.training_config.model_dump(),
        "base_model": plan.concepts.base_model,
        "base_fingerprint": plan.fingerprint,
        "code_version": version("concept-pinpoint-eraser"),
        "sha256": file_hash(path),
        "seconds": seconds,
        **piece.notes,
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1))


def assemble_bundle(places: Places, plan: Plan) -> str:
    """Stores the list's bundle, which names its gates, and returns its id."""
    gates = {gate.address: folder for gate, folder in zip(plan.gates, gate_folders(places, plan), strict=True)}
    if not places.holds(f"bundles/{plan.bundle}"):
        with places.scratch() as folder:
            write_manifest(folder, plan.bundle_manifest, gates)
            places.store().put(f"bundles/{plan.bundle}", folder)
    return plan.bundle


def gate_folders(places: Places, plan: Plan) -> list[Path]:
    """Returns local, verified copies of the list's gates; those that are damaged in the store are trained again."""
    keys = [f"gates/{gate.address}" for gate in plan.gates]
    damaged = [key for key in keys if not places.holds(key)]
    if damaged:
        for group in plan_training(places, plan):
            train_gates(places, plan, group)
    return [places.fetched(key) for key in keys]


def gates_of_bundle(places: Places, bundle: str) -> list[Path]:
    """Returns local, verified copies of a bundle's gates, for `Erased.load`."""
    manifest = json.loads((places.fetched(f"bundles/{bundle}") / MANIFEST_NAME).read_text())
    return [places.fetched(f"gates/{address}") for address in sorted(set(manifest["gates"].values()))]

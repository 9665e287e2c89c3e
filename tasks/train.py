"""Training of the gates a list lacks, and the bundle of all of them."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import Any

from prefect import task

from artifacts.hashing import content_hash, file_hash
from artifacts.kinds.bundle import write_manifest
from artifacts.stores.claims import claimed
from artifacts.stores.index import MANIFEST_NAME
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


@task
def plan_training(plan: Plan, part: int = 0, parts: int = 1) -> list[list[str]]:
    """Returns the concepts still to be trained, in groups that train as one batch.

    Args:
        plan: the list made ready.
        part: of the list's gates, from 0: every `parts`-th one.
        parts: how many workers share the training.
    """
    from cpe.terms.chunks import chunks

    mine = {gate.concept for gate in plan.gates[part::parts]}
    by_names: dict[int, list[str]] = {}  # gates that train together need the same number of prompts
    for gate in missing_gates(Places.from_environment(), plan):
        if gate.concept in mine:
            by_names.setdefault(len(gate.names), []).append(gate.concept)
    return [list(group) for alike in by_names.values() for group in chunks(alike, GATES_AT_ONCE)]


@task(retries=1)
def train_gates(plan: Plan, concepts: list[str]) -> list[str]:
    """Trains gates stage by stage, stores each, and returns their addresses.

    Of several runs that are given the same gate, on this machine or on others that share the store, one trains it; the
    others wait and find it in the store.
    """
    places = Places.from_environment()
    chosen = plan.gates_of(concepts)
    with ExitStack() as held:
        for address in sorted(gate.address for gate in chosen):  # in one order, so that nobody waits in a circle
            held.enter_context(places.locked(f"gate-{address}"))
        _store_trained(places, chosen)
        store = places.store()
        for address in sorted(gate.address for gate in chosen):
            there = partial(store.has, f"gates/{address}")
            held.enter_context(claimed(store, f"gate-{address}", there, owner=places.owner()))
        missing = [gate for gate in chosen if not store.has(f"gates/{gate.address}")]
        if missing:
            _train(places, plan, missing)
            _store_trained(places, missing)
    return [gate.address for gate in chosen]


def _train(places: Places, plan: Plan, chosen: Sequence[GatePlan]) -> None:
    from cpe.methods.pinpoint.storage.checkpoint import CheckpointError
    from cpe.methods.pinpoint.training import steps_in_all, train
    from cpe.models.projections import BaseProjections

    config = plan.concepts.training_config
    rows, table = load_embeddings(places, plan, chosen)
    pipe = places.loaded(plan.concepts.base_model)
    base = BaseProjections.of(pipe.unet, tokens=table.shape[1], device=pipe.device, cache=places.work / "bases")
    texts = _texts(plan, chosen, rows, table, pipe.device)
    checkpoint = places.work / "checkpoints" / f"{content_hash([gate.address for gate in chosen])[:24]}.safetensors"
    label = f"training {len(chosen)} gate{'s' if len(chosen) > 1 else ''}"
    with ExitStack() as shown:
        done: Any = None

        def begin(taken: int) -> None:  # once all is ready, so that the clock counts steps alone
            nonlocal done
            done = shown.enter_context(progress(label, steps_in_all(config), "step", initial=taken))

        def watch(record: Any) -> None:
            done(note=f"stage {record.stage + 1}/{config.stages} {record.phase}")

        options: dict[str, Any] = {"watch": watch, "begin": begin, "checkpoint": checkpoint}
        start = partial(train, texts, base, table[rows[""]].float(), config, **options)
        try:
            trained = start()
        except CheckpointError as error:  # nobody need come to delete it: all that is lost is time
            print(f"cpe: {error}; training from the start", file=sys.stderr)
            checkpoint.unlink()
            trained = start()
    with places.scratch() as folder:
        for index, gate in enumerate(chosen):
            own = folder / "gates" / gate.address
            _write_gate(own, plan, gate, trained.gates[index : index + 1], base.names, trained.curves[index])
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
    """Whether a gate that waits in the work folder is what was written there."""
    from cpe.methods.pinpoint.storage.checks import FILE_NAME

    try:
        return json.loads((folder / MANIFEST_NAME).read_text())["sha256"] == file_hash(folder / FILE_NAME)
    except (OSError, ValueError, KeyError):
        return False


def _texts(plan: Plan, gates: Sequence[GatePlan], rows: dict[str, int], table: Any, device: Any) -> list[Any]:
    """Returns the gates' texts; anchors stay in the mapped table on a CPU, and move to any other device at once."""
    import torch

    from cpe.methods.pinpoint.batch import ConceptTexts

    prompts = [gate.prompts(plan.concepts.templates) for gate in gates]
    anchors, place_of = table, rows
    if device.type != "cpu":
        used = sorted({prompt for each in prompts for prompt in each["anchors"]})
        anchors, place_of = table[[rows[p] for p in used]].to(device), {p: place for place, p in enumerate(used)}
    return [
        ConceptTexts(
            gate.concept,
            target=table[[rows[prompt] for prompt in each["target"]]].float(),
            surrogate=table[[rows[prompt] for prompt in each["surrogate"]]].float(),
            anchors=anchors,
            anchor_rows=torch.tensor([place_of[prompt] for prompt in each["anchors"]], device=device),
            seed=_seed(plan, gate),
        )
        for gate, each in zip(gates, prompts, strict=True)
    ]


def _seed(plan: Plan, gate: GatePlan) -> int:
    """A concept's own seed: it does not depend on its neighbours in the list."""
    return int(content_hash([plan.concepts.seed, gate.concept])[:12], 16)


def _write_gate(folder: Path, plan: Plan, gate: GatePlan, gates: Any, sites: Sequence[str], curve: Sequence) -> None:
    from safetensors.torch import save_file

    from cpe.methods.pinpoint.storage.checks import FILE_NAME
    from cpe.methods.pinpoint.storage.files import metadata_of, to_tensors

    folder.mkdir(parents=True)
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
        "losses": list(curve),
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1))


@task(retries=2, retry_delay_seconds=2)
def assemble_bundle(plan: Plan) -> str:
    """Stores the list's bundle, which names its gates, and returns its id."""
    places = Places.from_environment()
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
        for group in plan_training.fn(plan):
            train_gates.fn(plan, group)
    return [places.fetched(key) for key in keys]


def gates_of_bundle(places: Places, bundle: str) -> list[Path]:
    """Returns local, verified copies of a bundle's gates, for `Eraser.load`."""
    manifest = json.loads((places.fetched(f"bundles/{bundle}") / MANIFEST_NAME).read_text())
    return [places.fetched(f"gates/{address}") for address in sorted(manifest["gates"].values())]

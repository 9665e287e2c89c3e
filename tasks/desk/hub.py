"""Registered versions as repositories of a model hub: pushed with their figures, brought back as folders."""

import json
import shutil
from pathlib import Path

from artifacts.stores.index import MANIFEST_NAME
from cpe.methods.sharing import CARD, WEIGHTS, pull, push, write_config
from cpe.methods.table import DEFAULT
from tasks.here.places import Places


def push_version(places: Places, reference: str, repo: str, *, private: bool, revision: str | None) -> str:
    """Pushes a registered version, its gates as one file, and returns the commit's address.

    Raises:
        RegistryError: there is no such version, or its files are gone.
        ValueError: the name is none of a repository.
        OSError: the hub refuses, or cannot be reached.
    """
    registry = places.registry()
    version = registry.resolve(reference)
    with places.scratch() as scratch:
        bundle = registry.fetch(f"{version.name}/{version.version}", scratch / "bundle")
        folder = scratch / "shared"
        write_shared(bundle, folder, base_model=version.tags.get("base_model", ""))
        message = f"{version.name}, version {version.version}"
        return push(folder, repo, private=private, message=message, revision=revision)


def write_shared(bundle: Path, folder: Path, *, base_model: str) -> None:
    """Writes a fetched bundle as a folder to share: weights, configuration, the card that it was registered with."""
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    method, card = manifest.get("method", DEFAULT), bundle / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if method == DEFAULT:
        from cpe.methods.pinpoint.eraser import Eraser

        Eraser.load(bundle).save_pretrained(folder, base_model=base_model, card=text)
        return
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(bundle.rglob("*.safetensors"))):
        shutil.copyfile(path, folder / (WEIGHTS if number == 0 else WEIGHTS.replace(".", f"-{number + 1}.")))
    write_config(folder, method=method, concepts=list(manifest["gates"]), base_model=base_model)
    (folder / CARD).write_text(text, encoding="utf-8")


def pull_folder(repo: str, folder: Path, revision: str | None) -> Path:
    """Brings a repository into a folder of its name, verified.

    Raises:
        ValueError: there is such a folder already, the name is none, or the files are not those that it names.
        OSError: the hub refuses, or cannot be reached.
    """
    target = folder / repo.rpartition("/")[2]
    if target.exists():
        raise ValueError(f"{target} is there already; move it away, or name another folder")
    return pull(repo, revision, target)

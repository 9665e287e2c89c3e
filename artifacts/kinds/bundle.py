"""Bundles: a manifest that names gates, which the store holds once each, however many versions name them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from artifacts.disk import StoreError
from artifacts.hashing import file_hash, folder_hash
from artifacts.stores.index import MANIFEST_NAME
from artifacts.stores.opening import open_store

GATES = "gates"


def weights_file(folder: Path) -> Path:
    """Return the one safetensors file of a gate, or of whatever else a method trains.

    Raises:
        StoreError: There is none, or there are several.
    """
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise StoreError(
            f"{folder} must hold one .safetensors file, has {len(found)}; fetch it again or train it again"
        )
    return found[0]


def write_manifest(folder: Path, manifest: Mapping[str, object], gates: Mapping[str, Path]) -> None:
    """Write a bundle: what it is, and the hash of each gate's file.

    Args:
        folder: An existing folder.
        manifest: What the bundle is; `gates` maps concepts to addresses.
        gates: Folder of each gate, by address.
    """
    hashes = {address: file_hash(weights_file(gate)) for address, gate in gates.items()}
    (folder / MANIFEST_NAME).write_text(json.dumps({**manifest, "sha256": hashes}, indent=1))


def add_gates(folder: Path, stores: Sequence[str]) -> None:
    """Bring the gates that a bundle names into its folder, as `gates/<address>`.

    Args:
        folder: A bundle. One that holds its gates already, or is none, stays as it is.
        stores: Addresses of the stores that may hold them; the first that has a gate is taken.

    Raises:
        StoreError: No store has a gate, or a gate is not the one that the bundle was made of.
    """
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text())
        hashes = dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # of an earlier release, with its gates inside, or something else that was registered
    opened = [open_store(url) for url in dict.fromkeys(stores)]
    for address, expected in sorted(hashes.items()):
        key = f"{GATES}/{address}"
        store = next((each for each in opened if each.has(key)), None)
        if store is None:
            where = ", ".join(each.url for each in opened) or "no store was named"
            raise StoreError(
                f"gate {address} is not in the store ({where}); set CPE_STORE to the store that this bundle was made "
                "in, or run `cpe erase` with its list again"
            )
        if file_hash(weights_file(store.fetch(key, folder / key))) != expected:
            raise StoreError(
                f"gate {address} in {store.url} is not the one that the bundle was made of; run `cpe erase` with its "
                "list again, which registers the gates that there are"
            )


def holds_bundle(folder: Path, expected: str, stores: Sequence[str]) -> bool:
    """Say whether a folder holds a bundle with its gates; gates that are missing or damaged there are fetched again.

    Args:
        folder: The folder, or where one might be.
        expected: `folder_hash` of the bundle as it was registered.
        stores: As for `add_gates`.

    Raises:
        StoreError: As for `add_gates`.
    """
    if not folder.is_dir():
        return False
    if folder_hash(folder) == expected:  # a bundle of an earlier release has its gates inside
        return True
    if folder_hash(folder, [f"{GATES}/*"]) != expected:
        return False
    add_gates(folder, stores)
    return True

"""The index of an artifact: which files belong to it, with size and SHA-256; written last, so it says "complete"."""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from artifacts.hashing import canonical_json, content_hash, file_hash

INDEX_NAME = "index.json"
MANIFEST_NAME = "manifest.json"
FORMAT = 1
DATA_PATTERN = re.compile(r"(\.data-[0-9a-f]{32})?")
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """What a stored file must be: its SHA-256 (hexadecimal) and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Index:
    """All files of one artifact.

    Attributes:
        files: Name relative to the artifact ("unet/weights.safetensors") to what the file must be.
        data: Where the files lie, relative to the artifact's key: "" is right below it.
    """

    files: dict[str, FileEntry]
    data: str = ""

    def dump(self) -> bytes:
        """Write the index as canonical JSON that carries its own hash."""
        body = self._body()
        return canonical_json(body | {"hash": content_hash(body)})

    def faults(self, folder: Path) -> list[str]:
        """Compare the files of a folder with the index.

        Args:
            folder: A local folder that should hold every file of the index.

        Returns:
            One phrase per missing, shortened or changed file; empty when all are as they should be.
        """
        found = (fault(folder / name, name, entry) for name, entry in sorted(self.files.items()))
        return [each for each in found if each]

    def _body(self) -> dict[str, Any]:
        files = {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in self.files.items()}
        return {"data": self.data, "files": files, "format": FORMAT}


def fault(path: Path, name: str, entry: FileEntry) -> str:
    """Say what is wrong with one file, "" when nothing is: size first, then SHA-256."""
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != entry.size:
        return f"{name} has {size} bytes instead of {entry.size}"
    return "" if file_hash(path) == entry.sha256 else f"{name} has a wrong sha256"


def parse_index(text: bytes) -> Index:
    """Read an index and check it: its own hash, its fields, and that no name leaves the artifact's folder.

    Args:
        text: The bytes of an index.json.

    Returns:
        The index.

    Raises:
        ValueError: It is damaged, of another format, or names a file outside the artifact.
    """
    try:
        body = json.loads(text)
        claimed = body.pop("hash")
        files = {name: FileEntry(entry["sha256"], entry["size"]) for name, entry in body["files"].items()}
        index = Index(files, body["data"])
        good = body["format"] == FORMAT and claimed == content_hash(body) and body == index._body()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ValueError(f"{INDEX_NAME} is damaged or of another format")
    for name, entry in files.items():
        check_name(name)
        if not (isinstance(entry.size, int) and entry.size >= 0 and SHA256_PATTERN.fullmatch(str(entry.sha256))):
            raise ValueError(f"{INDEX_NAME} has a malformed entry for {name}")
    if not DATA_PATTERN.fullmatch(str(index.data)):
        raise ValueError(f"{INDEX_NAME} points outside the artifact, to {index.data!r}")
    if MANIFEST_NAME not in files:
        raise ValueError(f"{INDEX_NAME} lists no {MANIFEST_NAME}")
    return index


def list_files(folder: Path) -> dict[str, Path]:
    """List the files of a folder that is to be stored.

    Args:
        folder: An existing folder of plain files and folders with a manifest.json at its top. An index.json that a
            store wrote (the folder was fetched from one) is left out; empty folders are too.

    Returns:
        Name relative to the folder to path, sorted by name.

    Raises:
        ValueError: No folder, no manifest.json, a link or a device in it, or a name that cannot be stored.
    """
    if not folder.is_dir():
        raise ValueError(f"folder must be an existing folder, got {str(folder)!r}; write the artifact there first")
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"folder must hold plain files only, but {name!r} is not one; copy what it points to")
        if path.is_file() and name != INDEX_NAME:
            check_name(name)
            files[name] = path
    if MANIFEST_NAME not in files:
        raise ValueError(f"folder must hold a {MANIFEST_NAME}, but {str(folder)!r} has none; write it first")
    if (folder / INDEX_NAME).is_file():
        _check_own_index(folder / INDEX_NAME)
    return files


def build_index(files: dict[str, Path], data: str = "") -> Index:
    """Measure files and make their index.

    Args:
        files: Name relative to the artifact to path.
        data: Where the files will lie, relative to the artifact's key.

    Returns:
        The index.
    """
    return Index({name: FileEntry(file_hash(path), path.stat().st_size) for name, path in files.items()}, data)


def check_name(name: str) -> None:
    """Refuse a file name that is not a plain path below the artifact's folder.

    Args:
        name: A name relative to the artifact, with "/" between its parts.

    Raises:
        ValueError: It is absolute, holds "..", a backslash or a control character, or is the index itself.
    """
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and not PurePosixPath(name).is_absolute()
    if not plain or any(part in ("", ".", "..") for part in parts) or name == INDEX_NAME:
        raise ValueError(
            f"file name must be a plain relative path inside the artifact, got {name!r}; "
            f"rename it without '..', a leading '/', backslashes or control characters (and not {INDEX_NAME})"
        )


def _check_own_index(path: Path) -> None:
    try:
        parse_index(path.read_bytes())
    except ValueError:
        raise ValueError(f"folder must not hold an {INDEX_NAME} of its own, the store writes one; rename it") from None

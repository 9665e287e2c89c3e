"""The index of an artifact: which files belong to it, with size and SHA-256; written last, so it says "complete"."""

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from artifacts.hashing import content_hash, file_hash
from wording.canonical import canonical_json
from wording.foreign import show

INDEX_NAME = "index.json"
MANIFEST_NAME = "manifest.json"
FORMAT = 1
LARGEST_INDEX_BYTES = 8 << 20  # some 60,000 files; read into memory, an index takes up to 30 times its size
LONGEST_NAME_BYTES = 512
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
        entries = sorted(self.files.items())
        found = (link_fault(folder, name) or fault(folder / name, name, entry) for name, entry in entries)
        return [each for each in found if each]

    def _body(self) -> dict[str, Any]:
        files = {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in self.files.items()}
        return {"data": self.data, "files": files, "format": FORMAT}


def fault(path: Path, name: str, entry: FileEntry) -> str:
    """Say what is wrong with one file, "" when nothing is: size first, then SHA-256."""
    wrong = size_fault(path, name, entry)
    if wrong:
        return wrong
    return "" if file_hash(path) == entry.sha256 else f"{name} has a wrong sha256"


def size_fault(path: Path, name: str, entry: FileEntry) -> str:
    """Say what is wrong with one file as far as can be told without reading it."""
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    return "" if size == entry.size else f"{name} has {size} bytes instead of {entry.size}"


def link_fault(folder: Path, name: str) -> str:
    """Say whether a link stands between a folder and a file of it: what is behind one is not the artifact's own."""
    path = folder
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            return f"{name} is a link, or lies behind one"
    return ""


def read_index(path: Path) -> bytes:
    """Read an index.json; of one that is too large only so much that `parse_index` refuses it."""
    with open(path, "rb") as file:
        return file.read(LARGEST_INDEX_BYTES + 1)


def parse_index(text: bytes) -> Index:
    """Read an index and check it: written as `Index.dump` writes it, and no name leaves the artifact's folder.

    Args:
        text: The bytes of an index.json.

    Returns:
        The index.

    Raises:
        ValueError: It is damaged, too large, of another format, or names a file outside the artifact.
    """
    if len(text) > LARGEST_INDEX_BYTES:
        raise ValueError(f"{INDEX_NAME} has more than {LARGEST_INDEX_BYTES:,} bytes")
    try:
        body = json.loads(text)
        files = {name: FileEntry(entry["sha256"], entry["size"]) for name, entry in body["files"].items()}
        index = Index(files, body["data"])
        good = index.dump() == text  # its own hash, its format, and nothing said twice or besides
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ValueError(f"{INDEX_NAME} is damaged or of another format")
    for name, entry in files.items():
        check_name(name)
        if not _is_entry(entry):
            raise ValueError(f"{INDEX_NAME} has a malformed entry for {name}")
    _check_distinct(files)
    if not isinstance(index.data, str) or not DATA_PATTERN.fullmatch(index.data):
        raise ValueError(f"{INDEX_NAME} points outside the artifact, to {show(str(index.data))}")
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
        ValueError: No folder, no manifest.json, a link or a device in it, a name that cannot be stored, or two names
            that differ in case or accents' composition alone.
    """
    if not folder.is_dir():
        raise ValueError(f"folder must be an existing folder, got {str(folder)!r}; write the artifact there first")
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"folder must hold plain files only, but {show(name)} is not one; copy what it points to")
        if path.is_file() and name != INDEX_NAME:
            check_name(name)
            files[name] = path
    if MANIFEST_NAME not in files:
        raise ValueError(f"folder must hold a {MANIFEST_NAME}, but {str(folder)!r} has none; write it first")
    _check_distinct(files)
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

    Raises:
        ValueError: There are so many files that their index would be too large to be read.
    """
    index = Index({name: FileEntry(file_hash(path), path.stat().st_size) for name, path in files.items()}, data)
    if len(index.dump()) > LARGEST_INDEX_BYTES:
        raise ValueError(
            f"folder must hold fewer files, its {INDEX_NAME} may have {LARGEST_INDEX_BYTES:,} bytes at most, "
            f"got {len(files):,} files; store them as several artifacts"
        )
    return index


def check_name(name: str) -> None:
    """Refuse a file name that is not a plain path below the artifact's folder.

    Args:
        name: A name relative to the artifact, with "/" between its parts.

    Raises:
        ValueError: It is too long or absolute, holds "..", a backslash or a control character, or is the index itself.
    """
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and not PurePosixPath(name).is_absolute()
    if not plain or any(part in ("", ".", "..") for part in parts) or name == INDEX_NAME:
        raise ValueError(
            f"file name must be a plain relative path inside the artifact, got {show(name)}; "
            f"rename it without '..', a leading '/', backslashes or control characters (and not {INDEX_NAME})"
        )
    if len(name.encode()) > LONGEST_NAME_BYTES:
        raise ValueError(
            f"file name must have at most {LONGEST_NAME_BYTES} bytes in UTF-8, got {show(name)} of "
            f"{len(name.encode()):,}; shorten it"
        )


def _is_entry(entry: FileEntry) -> bool:
    sized = type(entry.size) is int and entry.size >= 0  # True is an int, too
    return sized and isinstance(entry.sha256, str) and bool(SHA256_PATTERN.fullmatch(entry.sha256))


def _check_distinct(names: Iterable[str]) -> None:
    """Refuse names that some disk takes for one another, and a file that is also a folder."""
    seen: dict[str, str] = {}
    for name in (INDEX_NAME, *names):
        other = seen.setdefault(_folded(name), name)
        if other != name:
            raise ValueError(
                f"file names must differ in more than case and accents' composition, got {name!r} and {other!r}; "
                "rename one"
            )
    for name in names:
        parts = _folded(name).split("/")
        for end in range(1, len(parts)):
            if (file := seen.get("/".join(parts[:end]))) is not None:
                raise ValueError(f"file name must not go through another file, got {name!r} and {file!r}; rename one")


def _folded(name: str) -> str:
    """Give a name as disks compare names that see neither case nor how accents are composed (macOS, Windows)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _check_own_index(path: Path) -> None:
    try:
        parse_index(read_index(path))
    except ValueError:
        raise ValueError(f"folder must not hold an {INDEX_NAME} of its own, the store writes one; rename it") from None

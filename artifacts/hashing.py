"""Addresses by content: the same values, the same file or the same folder always get the same SHA-256."""

import hashlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from wording.canonical import canonical_json

CHUNK_BYTES = 1 << 20


def content_hash(value: Any) -> str:
    """Hash a JSON value, whatever the order of its keys.

    Args:
        value: Nested dicts (with str keys), lists, tuples (hashed as lists), str, int, finite float, bool and None.
            1 and 1.0 are different values.

    Returns:
        64 hexadecimal digits: the SHA-256 of the canonical JSON text.

    Raises:
        ValueError: Something in it is NaN, infinite or not JSON; the message says where.
    """
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_hash(path: str | Path) -> str:
    """Hash the bytes of one file.

    Args:
        path: An existing file.

    Returns:
        64 hexadecimal digits (SHA-256).

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def folder_hash(folder: str | Path, ignore: Iterable[str] = ()) -> str:
    """Hash the names and the contents of all files below a folder.

    Args:
        folder: An existing folder. Empty folders in it do not count, nor do dates and permissions.
        ignore: Patterns such as "*.log" or "cache/*", matched against the names relative to the folder (with "/").

    Returns:
        64 hexadecimal digits (SHA-256), the same in whatever order the files are listed.

    Raises:
        ValueError: There is no such folder.
        OSError: A file cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"folder must be an existing folder, got {str(root)!r}; create it or fix the path")
    patterns = tuple(ignore)
    names = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    kept = {name: path for name, path in names.items() if not any(fnmatchcase(name, each) for each in patterns)}
    return content_hash({name: file_hash(path) for name, path in kept.items()})

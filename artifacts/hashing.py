"""Addresses by content: the same values, the same file or the same folder always get the same SHA-256."""

import hashlib
import json
import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

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


def canonical_json(value: Any) -> bytes:
    """Write a JSON value in its one canonical form: sorted keys, no spaces, UTF-8.

    Args:
        value: As for `content_hash`.

    Returns:
        The text as bytes.

    Raises:
        ValueError: Something in it is NaN, infinite or not JSON; the message says where.
    """
    try:
        _check_json(value, "value")
    except RecursionError:
        raise ValueError("value must be finite JSON, but it contains itself or is nested too deeply") from None
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode()


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


def _check_json(value: Any, where: str) -> None:
    """Refuse what JSON cannot say, or says in two ways; `where` is the way to the value, for the message."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} must have str keys, got the key {key!r}; write it as {str(key)!r}")
            _check_text(key, f"a key of {where}")
            _check_json(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _check_json(item, f"{where}[{position}]")
    elif isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} must be a finite number, got {value!r}; leave it out or use None")
    elif not (value is None or isinstance(value, bool | int)):
        raise ValueError(
            f"{where} must be plain JSON (dict, list, str, int, float, bool or None), "
            f"got {type(value).__name__}; convert it first"
        )


def _check_text(text: str, where: str) -> None:
    """Refuse text that has no UTF-8 form (half a surrogate pair, as from an undecodable file name)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} must be text that UTF-8 can write, got {text!r}; decode it properly first") from None

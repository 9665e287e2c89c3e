"""Folders on a disk, changed all at once or not at all: temporary siblings, renames, and errors with a way out."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EEXIST, EISDIR, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path

from wording.files import sync, whole

ADVICE = {
    ENOSPC: "the disk is full; free some space and run again",
    EDQUOT: "the disk quota is used up; free some space and run again",
    EACCES: "this user may not write or read there; fix the permissions or name another place",
    EPERM: "this user may not write or read there; fix the permissions or name another place",
    EROFS: "the file system is read-only; name another place",
    ENOTDIR: "a file is in the way where a folder should be; move it or name another place",
    EEXIST: "a file is in the way where a folder should be; move it or name another place",
    EISDIR: "a folder is in the way where a file should be; move it or name another place",
}


class StoreError(OSError):
    """A store cannot do what it was asked; the message says why and what to do."""


class DamagedError(StoreError):
    """An artifact that is not what was stored under its key.

    Attributes:
        what: is wrong with it.
    """

    what = ""


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Turn an operating system error into one clear sentence that begins with `what` and ends with the way out."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, f"{error.strerror or type(error).__name__}; check the path and the disk")
        raise StoreError(f"{what}: {advice}") from error


@contextmanager
def temporary_sibling(final: Path) -> Iterator[Path]:
    """Make a hidden folder beside `final`, on the same file system, that is gone afterwards unless it was renamed."""
    temporary = final.parent / f".{final.name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def rename_new(temporary: Path, final: Path) -> bool:
    """Give a finished folder its name; False when the name is taken by a folder with something in it."""
    try:
        os.rename(temporary, final)
    except OSError:
        if final.is_dir() and any(final.iterdir()):
            return False
        raise
    sync(final.parent)
    return True


def retire(folder: Path) -> None:
    """Make a folder vanish at once (by a rename), then delete it."""
    with temporary_sibling(folder) as temporary:
        os.rename(folder, temporary / folder.name)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file that holds the new content or the old one, whatever happens: beside it, to the disk, renamed.

    Raises:
        StoreError: The disk is full, or the place cannot be written.
    """
    with reporting(f"cannot write {path}"), whole(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_tree(folder: Path) -> None:
    """Force a folder and everything in it to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)

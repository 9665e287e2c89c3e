"""Concept lists kept in S3: a local copy of a prefix's YAML files, brought up to date."""

import re
from pathlib import Path

from artifacts.disk import StoreError, write_whole
from artifacts.stores.s3 import S3Store

FILE_PATTERN = re.compile(r"(sets/)?[A-Za-z0-9_-][A-Za-z0-9._-]*\.yaml")
LARGEST_FILE_BYTES = 1_000_000
MOST_FILES = 1000


def sync_lists(url: str, folder: Path) -> Path:
    """Makes a folder hold the lists of a prefix, and no others.

    Args:
        url: "s3://bucket/prefix"; lists lie directly below it, sets below "sets/".
        folder: The copy, created when missing.

    Returns:
        The folder.

    Raises:
        ValueError: The url is malformed.
        StoreError: S3 cannot be read, or holds a file that is too large to be a list, or too many.
    """
    store = S3Store(url.removeprefix("s3://"))
    wanted = {}
    for item in store.objects():
        name = item["Key"].removeprefix(store.prefix)
        if FILE_PATTERN.fullmatch(name):
            wanted[name] = item
    if len(wanted) > MOST_FILES:
        raise StoreError(f"{url} holds {len(wanted)} YAML files, at most {MOST_FILES} are read; name another prefix")
    for name, item in wanted.items():
        if item["Size"] > LARGEST_FILE_BYTES:
            raise StoreError(f"{url}/{name} is larger than {LARGEST_FILE_BYTES:,} bytes and no list; remove it")
        path = folder / name
        write_whole(path, store.read_object(name, most=LARGEST_FILE_BYTES))
    for path in [*folder.glob("*.yaml"), *folder.glob("sets/*.yaml")]:
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    return folder

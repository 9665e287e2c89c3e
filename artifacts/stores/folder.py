"""A store in a folder: copy beside, force to the disk, rename; the rename is the one moment an artifact appears."""

import os
import shutil
import uuid
from datetime import UTC, datetime
from errno import ENOTDIR
from pathlib import Path

from artifacts.disk import StoreError, rename_new, reporting, retire, sync_tree, temporary_sibling
from artifacts.stores.index import (
    INDEX_NAME,
    MANIFEST_NAME,
    Index,
    build_index,
    link_fault,
    list_files,
    read_index,
    size_fault,
)
from artifacts.stores.keys import check_key, is_key
from artifacts.stores.store import ASIDE, Store


class FolderStore(Store):
    """Artifacts as plain folders below a root folder, which is created by the first put.

    Args:
        root: Relative to the current folder at the time of opening, or absolute; "~" is the home folder.

    Raises:
        ValueError: The path is empty.
    """

    def __init__(self, root: Path) -> None:
        if str(root) in ("", "."):
            raise ValueError("url must name a folder, got an empty path; write for example 'work/store'")
        self.root = root.expanduser().absolute()
        self.url = self.root.as_uri()

    def has(self, key: str) -> bool:
        """See `Store.has`."""
        path = self._path(key) / INDEX_NAME
        with reporting(f"cannot read {self.url}"):
            self._check_root()
            return path.is_file()

    def put(self, key: str, folder: Path) -> bool:
        """See `Store.put`."""
        final = self._path(key)
        files = list_files(Path(folder))
        if self.has(key):
            return False
        self._check_place(key)
        with reporting(f"cannot store {key} in {self.url}"), temporary_sibling(final) as temporary:
            copies = {name: temporary / name for name in files}
            for name, source in files.items():
                copies[name].parent.mkdir(parents=True, exist_ok=True)
                _copy_file(source, copies[name])
            (temporary / INDEX_NAME).write_bytes(build_index(copies).dump())
            sync_tree(temporary)
            if rename_new(temporary, final):
                return True
            if not (final / INDEX_NAME).is_file():
                raise StoreError(
                    f"cannot store {key} in {self.url}: a folder without {INDEX_NAME} has that name; "
                    "`cpe store repair` moves it away, if it was an artifact"
                )
            return False

    def keys(self, prefix: str = "") -> list[str]:
        """See `Store.keys`."""
        start = self._path(prefix.removesuffix("/"), "prefix") if prefix else self.root
        with reporting(f"cannot read {self.url}"):
            self._check_root()
            return sorted(self._below(start)) if start.is_dir() else []

    def delete(self, key: str) -> bool:
        """See `Store.delete`."""
        final = self._path(key)
        with reporting(f"cannot delete {key} from {self.url}"):
            self._check_root()
            if not final.is_dir():
                return False
            if not (final / INDEX_NAME).is_file() and self._below(final):
                raise ValueError(f"key must name one artifact, but {key!r} is a folder of them; delete them singly")
            retire(final)
            return True

    def stored_at(self, key: str) -> datetime | None:
        """See `Store.stored_at`."""
        path = self._path(key) / INDEX_NAME
        with reporting(f"cannot read {self.url}"):
            return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.is_file() else None

    def set_aside(self, key: str) -> str:
        """See `Store.set_aside`."""
        final, aside = self._path(key), self.root / ASIDE / f"{key.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
        with reporting(f"cannot move {key} of {self.url} away"):
            aside.parent.mkdir(exist_ok=True)
            os.rename(final, aside)
        return str(aside)

    def _read_index(self, key: str) -> bytes | None:
        with reporting(f"cannot read {self.url}"):
            self._check_root()
            path = self._path(key) / INDEX_NAME
            return read_index(path) if path.is_file() else None

    def _copy_out(self, key: str, index: Index, name: str, target: Path) -> None:
        folder = self._path(key) / index.data
        wrong = link_fault(folder, name) or size_fault(folder / name, name, index.files[name])
        if wrong:
            raise self._damaged(key, wrong)
        try:
            _copy_file(folder / name, target)
        except FileNotFoundError:
            if (folder / name).exists():
                raise
            raise self._damaged(key, f"{name} is missing") from None  # or deleted just now

    def _path(self, key: str, argument: str = "key") -> Path:
        return self.root / check_key(key, argument)

    def _without_index(self, prefix: str) -> list[str]:
        start = self._path(prefix.removesuffix("/"), "prefix") if prefix else self.root
        with reporting(f"cannot read {self.url}"):
            names = [path.parent.relative_to(self.root).as_posix() for path in sorted(start.rglob(MANIFEST_NAME))]
        lost: list[str] = []
        for name in filter(is_key, names):
            places = [self.root / name, *(self.root / name).parents]
            inside = any((place / INDEX_NAME).exists() for place in places[: places.index(self.root)])
            if not inside and not any(name.startswith(f"{other}/") for other in lost[-1:]):
                lost.append(name)
        return lost

    def _check_root(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise NotADirectoryError(ENOTDIR, "a file", str(self.root))

    def _below(self, folder: Path) -> list[str]:
        """List the keys of the artifacts strictly below a folder; hidden folders are unfinished or dying ones.

        Links are not followed: one that leads back up would never end.
        """
        found = []
        for path in folder.iterdir():
            if not is_key(path.name) or path.is_symlink() or not path.is_dir():
                continue
            if (path / INDEX_NAME).is_file():
                found.append(path.relative_to(self.root).as_posix())
            else:
                found += self._below(path)
        return found


def _copy_file(source: Path, target: Path) -> None:
    """Copy bytes, not permissions: a shared store follows its writer's umask."""
    shutil.copyfile(source, target)

"""Artifacts brought out of a store: every file verified, a folder whole or not there."""

from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory

from artifacts.disk import DamagedError, StoreError, rename_new, reporting, retire, sync_tree, temporary_sibling
from artifacts.stores.index import INDEX_NAME, Index, fault, parse_index, read_index
from artifacts.stores.keys import check_key


class Fetching(ABC):
    """What a store does to bring artifacts out."""

    url: str

    @abstractmethod
    def _read_index(self, key: str) -> bytes | None:
        """Read the artifact's index.json, None when there is none."""

    @abstractmethod
    def _copy_out(self, key: str, index: Index, name: str, target: Path) -> None:
        """Copy one file of the artifact to `target`, whose folder exists."""

    def fetch(self, key: str, target: Path) -> Path:
        """Bring an artifact into a local folder, every file verified by size and SHA-256.

        Args:
            key: The artifact.
            target: The folder to make. If it holds this artifact already, it is verified and used as it is (or
                fetched anew when damaged); a folder with anything else in it is refused.

        Returns:
            `target`, which holds the artifact's files and its index.json.

        Raises:
            ValueError: The key is malformed.
            StoreError: There is no such artifact, it is damaged, or `target` cannot be written or holds other things.
        """
        check_key(key)
        text = self._read_index(key)
        if text is None:
            raise StoreError(f"there is no artifact {key} in {self.url}; check the key, or run the step that makes it")
        try:
            index = parse_index(text)
        except ValueError as error:
            raise self._damaged(key, str(error)) from error
        target = Path(target)
        with reporting(f"cannot fetch {key} from {self.url} into {target}"):
            if self._is_fetched(target, text, index):
                return target
            with temporary_sibling(target) as temporary:
                for name in index.files:
                    self._fetch_file(key, index, name, temporary / name)
                (temporary / INDEX_NAME).write_bytes(text)
                sync_tree(temporary)
                while not rename_new(temporary, target):
                    if self._is_fetched(target, text, index):
                        break  # another worker was faster
                    retire(target)  # an earlier copy of the same artifact, damaged
            return target

    def read_file(self, key: str, name: str) -> bytes:
        """Read one small file of an artifact, verified.

        Raises:
            ValueError: The key is malformed.
            StoreError: There is no such artifact or file, or it is damaged.
        """
        text = self._read_index(check_key(key))
        try:
            index = parse_index(text or b"")
        except ValueError as error:
            raise self._damaged(key, str(error)) from error
        if name not in index.files:
            raise StoreError(f"artifact {key} in {self.url} holds no {name}; check the key")
        with TemporaryDirectory(prefix="cpe-") as folder:
            self._fetch_file(key, index, name, Path(folder) / name)
            return (Path(folder) / name).read_bytes()

    def _fetch_file(self, key: str, index: Index, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._copy_out(key, index, name, path)
        wrong = fault(path, name, index.files[name])
        if wrong:
            raise self._damaged(key, wrong)

    def _is_fetched(self, target: Path, text: bytes, index: Index) -> bool:
        """Say whether `target` holds the intact artifact; refuse to touch a folder that holds something else."""
        if not target.is_dir() or not any(target.iterdir()):
            return False
        own = target / INDEX_NAME
        if own.is_symlink() or not own.is_file() or read_index(own) != text:
            raise StoreError(f"target {target} holds something else already; empty it or name another folder")
        names = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
        strange = sorted(names - set(index.files) - {INDEX_NAME})
        if strange:  # a file that nobody verified could pass for a part of the artifact
            raise StoreError(
                f"target {target} holds something else besides the artifact, {strange[0]!r}; remove it or name "
                "another folder"
            )
        return not index.faults(target)

    def _damaged(self, key: str, what: str) -> DamagedError:
        error = DamagedError(
            f"artifact {key} in {self.url} is damaged: {what}; `cpe store repair` moves it away, and the next run "
            "makes it again"
        )
        error.what = what
        return error

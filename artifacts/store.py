"""Stores of artifact folders: one small interface, on disk (`artifacts.folder`) and in S3 (`artifacts.s3`).

An artifact is a folder with a manifest.json. It exists exactly when its index.json does, which is written last
and never overwritten, so that any number of workers may put the same key at once.
"""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from urllib.parse import unquote

from artifacts.disk import StoreError as StoreError
from artifacts.disk import rename_new, reporting, retire, sync_tree, temporary_sibling
from artifacts.index import INDEX_NAME, Index, fault, parse_index

KEY_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class Store(ABC):
    """Artifact folders under keys such as "gates/3f2a…".

    Attributes:
        url: Where the store is, without credentials; `open_store(url)` opens it again.
    """

    url: str

    @abstractmethod
    def has(self, key: str) -> bool:
        """Say whether a complete artifact is stored under `key`.

        Raises:
            ValueError: The key is malformed.
            StoreError: The store cannot be read.
        """

    @abstractmethod
    def put(self, key: str, folder: Path) -> bool:
        """Store every file of a folder as one artifact, or nothing; never overwrite.

        Args:
            key: Letters, digits, ".", "_", "-" and "/"; no part may begin with ".".
            folder: Plain files and folders with a manifest.json at the top.

        Returns:
            True if this call stored it, False if the key was taken already.

        Raises:
            ValueError: The key or the folder is malformed.
            StoreError: The store cannot be written; nothing of the artifact can be seen afterwards.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]:
        """List the keys of complete artifacts below a prefix, sorted.

        Args:
            prefix: Whole parts of a key: "gates" finds "gates/a", not "gates-old/a". "" is everything.

        Raises:
            ValueError: The prefix is malformed.
            StoreError: The store cannot be read.
        """

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Delete the artifact under `key`, damaged ones too; False if there was none.

        Raises:
            ValueError: The key is malformed, or names a folder of artifacts.
            StoreError: The store cannot be written.
        """

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
            StoreError: There is no such artifact, it is damaged, or `target` cannot be written.
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
        if not (target / INDEX_NAME).is_file() or (target / INDEX_NAME).read_bytes() != text:
            raise StoreError(f"target {target} holds something else already; empty it or name another folder")
        return not index.faults(target)

    def _check_place(self, key: str) -> None:
        """Refuse a key inside another artifact or above others: on a disk the two would share a folder."""
        parents = [key[:end] for end in range(len(key)) if key[end] == "/"]
        others = [parent for parent in parents if self.has(parent)] or self.keys(key)
        if others:
            raise ValueError(
                f"key must not lie inside or above another artifact, got {key!r}, {others[0]!r} exists; choose another"
            )

    def _damaged(self, key: str, what: str) -> StoreError:
        return StoreError(
            f"artifact {key} in {self.url} is damaged: {what}; delete this artifact from the store and run again"
        )


def open_store(url: str, *, endpoint_url: str | None = None) -> Store:
    """Open a store by its address; nothing is created or contacted yet.

    Args:
        url: "s3://bucket/prefix", "file:///absolute/path", "file://relative/path" or a plain path.
        endpoint_url: S3 only: the server, when it is not AWS. None takes AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL
            from the environment. Credentials come from boto3's own chain (environment, files, roles) only.

    Returns:
        A `FolderStore` or an `S3Store`.

    Raises:
        ValueError: Another scheme, an empty path or bucket, or credentials inside an address.
        StoreError: boto3 cannot be set up (a profile that does not exist).
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        from artifacts.s3 import S3Store

        return S3Store(rest, endpoint_url=endpoint_url)
    if separator and scheme != "file":
        raise ValueError(f"url must be a path, file://… or s3://…, got the scheme {scheme!r}; use one of these")
    from artifacts.folder import FolderStore

    return FolderStore(Path(unquote(rest) if separator else url))


def check_key(key: str, argument: str = "key") -> str:
    """Refuse a malformed key (or prefix) and return a good one.

    Raises:
        ValueError: It is empty, has other characters, an empty part or one that begins with ".".
    """
    if not all(KEY_PART.fullmatch(part) for part in key.split("/")):
        raise ValueError(
            f"{argument} must be parts of letters, digits, '.', '_' and '-' joined by '/', none empty or beginning "
            f"with '.', got {key!r}; rename it, for example 'gates/3f2a'"
        )
    return key

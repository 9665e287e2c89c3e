"""Stores of artifact folders: one small interface, on disk (`folder`) and in S3 (`s3`).

An artifact is a folder with a manifest.json. It exists exactly when its index.json does, which is written last
and never overwritten, so that any number of workers may put the same key at once.
"""

from abc import abstractmethod
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from artifacts.disk import DamagedError as DamagedError
from artifacts.disk import StoreError as StoreError
from artifacts.stores.fetching import Fetching
from artifacts.stores.index import INDEX_NAME, parse_index
from artifacts.stores.keys import check_key

ASIDE = ".damaged"  # below a store's root; keys never begin so


class Store(Fetching):
    """Artifact folders under keys such as "gates/3f2a…".

    Attributes:
        url: Where the store is, without credentials; `open_store(url)` opens it again.
    """

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
    def stored_at(self, key: str) -> datetime | None:
        """Say when an artifact was stored, by the store's own clock (UTC); None when there is none.

        Raises:
            ValueError: The key is malformed.
            StoreError: The store cannot be read.
        """

    def size_bytes(self, key: str) -> int:
        """Say how much room an artifact's files take; 0 for one that is damaged or not there.

        Raises:
            ValueError: The key is malformed.
            StoreError: The store cannot be read.
        """
        text = self._read_index(check_key(key))
        try:
            return sum(entry.size for entry in parse_index(text or b"").files.values())
        except ValueError:
            return 0

    @abstractmethod
    def set_aside(self, key: str) -> str:
        """Move an artifact to where nobody looks for it, so that it can be made again; the way out of damage.

        Returns:
            Where it is now.

        Raises:
            ValueError: The key is malformed.
            StoreError: There is none, or the store cannot be written.
        """

    def damaged(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield every artifact that is not what was stored, with the first thing that is wrong; reads all of them.

        Args:
            prefix: As for `keys`.
        """
        for key in self.keys(prefix):
            text = self._read_index(key)
            wrong = "" if text is None else self._wrong_with(key, text)
            if wrong and self._read_index(key) == text:  # or it was deleted while it was read
                yield key, wrong
        yield from ((key, f"{INDEX_NAME} is missing") for key in self._without_index(prefix))

    def _wrong_with(self, key: str, text: bytes) -> str:
        """Read all of an artifact; say the first thing that is wrong, "" for nothing."""
        with TemporaryDirectory(prefix="cpe-verify-") as folder:
            try:
                index = parse_index(text)
                for name in index.files:
                    self._fetch_file(key, index, name, Path(folder) / name)
                    (Path(folder) / name).unlink()
            except DamagedError as error:
                return error.what
            except ValueError as error:
                return str(error)
        return ""

    def salvage(self, key: str, target: Path) -> dict[str, str]:
        """Copy what is intact of a damaged artifact, and delete the artifact.

        Args:
            key: The artifact.
            target: An existing folder.

        Returns:
            The SHA-256 of each file that was copied, by name; none where the index itself is damaged.
        """
        check_key(key)
        text = self._read_index(key)
        try:
            index = parse_index(text) if text is not None else None
        except ValueError:
            index = None
        saved: dict[str, str] = {}
        if index is None:
            self.delete(key)
            return saved
        for name in index.files:
            try:
                self._fetch_file(key, index, name, Path(target) / name)
            except DamagedError:
                (Path(target) / name).unlink(missing_ok=True)
            else:
                saved[name] = index.files[name].sha256
        self.delete(key)
        return saved

    def _without_index(self, prefix: str) -> list[str]:
        """List what looks like artifacts that have lost their index."""
        return []

    def _check_place(self, key: str) -> None:
        """Refuse a key inside another artifact or above others: on a disk the two would share a folder."""
        parents = [key[:end] for end in range(len(key)) if key[end] == "/"]
        inside = [other for other in self.keys(key) if other != key]  # which another writer may have put meanwhile
        others = [parent for parent in parents if self.has(parent)] or inside
        if others:
            raise ValueError(
                f"key must not lie inside or above another artifact, got {key!r}, {others[0]!r} exists; choose another"
            )

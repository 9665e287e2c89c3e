"""Versions looked up and brought to this machine."""

import shutil
from contextlib import AbstractContextManager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from artifacts.kinds.bundle import add_gates, holds_bundle
from artifacts.registry.link import RegistryError, reporting, sqlite_path
from artifacts.registry.runs import (
    download,
    has_files,
)
from artifacts.registry.sqlite import files_of, versions_in
from artifacts.registry.versions import (
    FILES_HASH,
    MODEL_PREFIX,
    STORE,
    ModelVersion,
    check_model_name,
    choose,
    model_names,
    parse_reference,
    versions_of,
)


class Lookups:
    """What is read of a registry."""

    client: Any
    tracking_uri: str
    store_url: str | None

    def find(self, name: str, tag: str, value: str) -> int | None:
        """Find the newest version of a model whose tag has a value; None when there is none.

        Raises:
            ValueError: A malformed name.
            RegistryError: The registry cannot be read.
        """
        return next((each.version for each in self.versions(name) if each.tags.get(tag) == value), None)

    def versions(self, name: str) -> list[ModelVersion]:
        """List the versions of a model, newest first; none for a model that does not exist.

        Raises:
            ValueError: A malformed name.
            RegistryError: The registry cannot be read.
        """
        check_model_name(name)
        with self._reporting(f"look for {name}"):
            return self._versions(name)

    def has_files(self, name: str, version: int) -> bool:
        """Say whether a version's files are there.

        Raises:
            RegistryError: There is no such version, or the registry cannot be read.
        """
        with self._reporting(f"look for the files of {name} version {version}"):
            return self._has_files(name, version)

    def models(self) -> list[ModelVersion]:
        """List all versions of all registered models whose name starts with `cpe-`, newest first.

        Raises:
            RegistryError: The registry cannot be read.
        """
        with self._reporting("list the models"):
            path = sqlite_path(self.tracking_uri)
            found = versions_in(path, prefix=MODEL_PREFIX) if path else None
            if found is None:
                names = [name for name in model_names(self.client) if name.startswith(MODEL_PREFIX)]
                found = [each for name in names for each in versions_of(self.client, name)]
        return sorted(found, key=lambda each: (each.created_at, each.version), reverse=True)

    def resolve(self, reference: str) -> ModelVersion:
        """Find the version that a reference means.

        Args:
            reference: `models:/name@alias`, `models:/name/3`, `name@alias`, `name/3`, or `name` (its champion, else
                its newest version).

        Returns:
            The version.

        Raises:
            RegistryError: There is no such model, alias or version (the message lists what there is), or the
                reference is malformed.
        """
        name, alias, version = parse_reference(reference)
        with self._reporting(f"resolve {reference}"):
            versions = self._versions(name)
            if not versions:
                names = model_names(self.client)
                near = [MODEL_PREFIX + name] if MODEL_PREFIX + name in names else get_close_matches(name, names, 1)
                meant = f"; did you mean {near[0]!r}?" if near else ";"
                listed = ", ".join(names) or "none yet"
                raise RegistryError(f"there is no model {name!r} with a version{meant} registered are: {listed}")
        return choose(versions, alias, version)

    def fetch(self, reference: str, target: Path) -> Path:
        """Download the files of a version, and the gates that it names.

        Args:
            reference: As for `resolve`.
            target: The folder to make; it must be missing or empty.

        Returns:
            The folder with the version's files.

        Raises:
            RegistryError: There is no such version, its files are gone or not those of its tag `files_sha256`, no store
                has its gates, or `target` is not free.
        """
        return self._download(self.resolve(reference), Path(target))

    def fetch_once(self, reference: str, parent: Path) -> Path:
        """Download the files of a version into a folder of its own, unless they lie there whole.

        Args:
            reference: As for `resolve`.
            parent: In which the folders of versions are.

        Returns:
            The version's folder.

        Raises:
            RegistryError: As for `fetch`.
        """
        found = self.resolve(reference)
        expected = found.tags.get(FILES_HASH, "")
        target = Path(parent) / found.name / f"{found.version}-{expected[:12] or 'unknown'}"
        with self._reporting(f"fetch {reference}"):
            if expected and holds_bundle(target, expected, self._stores(found)):
                return target
        shutil.rmtree(target, ignore_errors=True)
        return self._download(found, target)

    def _download(self, version: ModelVersion, target: Path) -> Path:
        with self._reporting(f"fetch {version.name}/{version.version}"):
            source = self.client.get_model_version(version.name, str(version.version)).source
            complete = partial(add_gates, stores=self._stores(version))
            return download(self.client, source, target, version.tags.get(FILES_HASH), complete)

    def _versions(self, name: str) -> list[ModelVersion]:
        """The versions of a model, newest first, without MLflow's client where that goes."""
        path = sqlite_path(self.tracking_uri)
        found = versions_in(path, name=name) if path else None
        return versions_of(self.client, name) if found is None else found

    def _has_files(self, name: str, version: int) -> bool:
        """Whether a version's files are there, without MLflow's client where that goes."""
        path = sqlite_path(self.tracking_uri)
        folder = files_of(path, name, version) if path else None
        if folder is None:
            return has_files(self.client, self.client.get_model_version(name, str(version)).source)
        return any(each.is_file() for each in folder.rglob("*"))

    def _stores(self, version: ModelVersion) -> list[str]:
        """The stores that may hold a version's gates, the likeliest first."""
        return [url for url in (self.store_url, version.tags.get(STORE)) if url]

    def _reporting(self, what: str) -> AbstractContextManager[None]:
        return reporting(self.tracking_uri, what)

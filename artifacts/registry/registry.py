"""Runs, model versions and aliases in MLflow: what was made, with which results, and which version is in use.

A registered model `cpe-<list>` has versions (bundles of gates). The alias `champion` is the version to use, `previous`
the one to go back to.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from artifacts import defaults
from artifacts.kinds.bundle import add_gates, holds_bundle
from artifacts.registry.champions import Champions
from artifacts.registry.champions import bundle_of as bundle_of
from artifacts.registry.link import RegistryError as RegistryError
from artifacts.registry.link import connect, error_code, reporting, sqlite_path
from artifacts.registry.runs import (
    check_artifact_path,
    download,
    experiment_id,
    has_files,
    holds_files,
    log_values,
)
from artifacts.registry.versions import CHAMPION, check_model_name, choose, model_names, parse_reference, versions_of
from artifacts.registry.versions import ModelVersion as ModelVersion

MODEL_PREFIX = "cpe-"
FILES_HASH = "files_sha256"
STORE = "store"  # the tag that says in which store a version's gates were put


class Registry(Champions):
    """Runs and registered models of one MLflow tracking URI.

    Args:
        tracking_uri: "sqlite:///relative.db", "sqlite:////absolute.db" or "http(s)://…". The folder of a SQLite
            database is created, and the database too (7 to 9 s, once).
        artifact_root: Where runs of new experiments keep their files, a folder or an s3:// address. None is the folder
            `artifacts` beside a SQLite database. A server decides by itself.
        store_url: The artifact store in which `fetch` looks for gates first; the one that a version was made in comes
            next.

    Raises:
        RegistryError: The URI is empty or unknown, or its database is unusable.
        ValueError: `artifact_root` holds credentials, which MLflow would keep.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None = None, store_url: str | None = None) -> None:
        if artifact_root is not None and "@" in urlsplit(artifact_root).netloc:
            raise ValueError("artifact_root must hold no user or password; credentials come from the environment")
        self.client: Any = connect(tracking_uri)
        self.tracking_uri = tracking_uri
        self.store_url = store_url
        database = sqlite_path(tracking_uri)
        if artifact_root is None and database is not None:
            artifact_root = str(database.parent / "artifacts")
        if artifact_root is not None and "://" not in artifact_root:
            artifact_root = Path(artifact_root).expanduser().absolute().as_uri()
        self.artifact_root = None if tracking_uri.startswith("http") else artifact_root

    def record_run(
        self,
        experiment: str,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, Path],
    ) -> str:
        """Record one finished run with its files.

        Args:
            experiment: Its experiment, created when missing.
            params: What it was given; values become text, cut to MLflow's limit.
            metrics: What it measured.
            tags: Names by which it is found again; values cut to MLflow's limit.
            artifacts: Artifact path ("bundle") to the folder whose content, or the file that, goes under it.

        Returns:
            The run's id.

        Raises:
            ValueError: A path in `artifacts` does not exist, or an artifact path is not a plain relative one.
            RegistryError: MLflow refused something; the run is marked FAILED.
        """
        for name, path in artifacts.items():
            check_artifact_path(name)
            if not Path(path).exists():
                raise ValueError(
                    f"artifacts[{name!r}] must exist, got {str(path)!r}; write it before recording the run"
                )
        with self._reporting(f"record a run in {experiment}"):
            place = experiment_id(self.client, experiment, self.artifact_root)
            run_id = str(self.client.create_run(place).info.run_id)
            try:
                log_values(self.client, run_id, params, metrics, tags)
                for name, path in artifacts.items():
                    upload = self.client.log_artifacts if Path(path).is_dir() else self.client.log_artifact
                    upload(run_id, str(path), name)
                self.client.set_terminated(run_id, "FINISHED")
            except BaseException:
                with suppress(Exception):
                    self.client.set_terminated(run_id, "FAILED")
                raise
            return run_id

    def attach(self, run_id: str, artifacts: Mapping[str, Path]) -> None:
        """Add files to a run that was recorded before; a file of the same name is replaced.

        Args:
            run_id: The run.
            artifacts: Artifact path ("report") to the file that goes under it.

        Raises:
            RegistryError: There is no such run, or MLflow refused.
        """
        with self._reporting(f"add files to run {run_id}"):
            for name, path in artifacts.items():
                self.client.log_artifact(run_id, str(path), check_artifact_path(name))

    def register(
        self,
        name: str,
        run_id: str,
        artifact_path: str,
        *,
        tags: Mapping[str, str],
        description: str = "",
        once_by: Sequence[str] = (),
    ) -> int:
        """Make files of a run a new version of a model.

        With `once_by` one result gives one version, however many machines register it at the same time: a version and
        its tags appear in one step and in one order, so that each of them finds the first and takes its own back.

        Args:
            name: The registered model, `cpe-<list>`; created when missing.
            run_id: The run that holds the files.
            artifact_path: Where in the run they are, for example "bundle".
            tags: Tags of the version: metrics, hashes. Under `files_sha256`, the `folder_hash` that `fetch` checks.
            description: A sentence for people.
            once_by: The tags that say what the version is; none lets every call make one.

        Returns:
            The version's number: the new one, or the first of the same result.

        Raises:
            ValueError: A malformed name or artifact path.
            RegistryError: There is no such run or it holds no file there, or MLflow refused.
        """
        check_model_name(name)
        check_artifact_path(artifact_path)
        with self._reporting(f"register {name}"):
            if not holds_files(self.client, run_id, artifact_path):
                raise RegistryError(
                    f"run {run_id} holds no file under {artifact_path!r}, and the registry never names what does not "
                    "exist; record the run with these artifacts first"
                )
            try:
                self.client.create_registered_model(name)
            except Exception as error:
                if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = self.client.create_model_version(
                name,
                source=f"runs:/{run_id}/{artifact_path}",
                run_id=run_id,
                tags={key: str(value) for key, value in tags.items()},
                description=description,
            )
            if not once_by:
                return int(version.version)
            first = self.settle(name, {key: str(tags[key]) for key in once_by})
            if first is None:
                raise RegistryError(f"version {version.version} of {name} was deleted as soon as it was registered")
            return first.version

    def settle(self, name: str, result: Mapping[str, str]) -> ModelVersion | None:
        """Find the one version of a result, and take back later ones of the same that nobody uses.

        Args:
            name: The registered model.
            result: The tags that say what the version is.

        Returns:
            Of the versions with these tags that have their files the champion, else the first; None when there is none.

        Raises:
            ValueError: A malformed name.
            RegistryError: The registry cannot be read or written.
        """
        same = [each for each in reversed(self.versions(name)) if result.items() <= each.tags.items()]
        with self._reporting(f"look for {name}"):
            whole = [each for each in same if self._is_whole(each)]
            first = next((each for each in whole if CHAMPION in each.aliases), whole[0]) if whole else None
            for each in whole:
                if each != first and not each.aliases:
                    self._delete(name, each.version)
        return first

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
            return versions_of(self.client, name)

    def has_files(self, name: str, version: int) -> bool:
        """Say whether a version's files are there.

        Raises:
            RegistryError: There is no such version, or the registry cannot be read.
        """
        with self._reporting(f"look for the files of {name} version {version}"):
            return has_files(self.client, self.client.get_model_version(name, str(version)).source)

    def models(self) -> list[ModelVersion]:
        """List all versions of all registered models whose name starts with `cpe-`, newest first.

        Raises:
            RegistryError: The registry cannot be read.
        """
        with self._reporting("list the models"):
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
            versions = versions_of(self.client, name)
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

    def _stores(self, version: ModelVersion) -> list[str]:
        """The stores that may hold a version's gates, the likeliest first."""
        return [url for url in (self.store_url, version.tags.get(STORE)) if url]

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version, replacing those of the same key.

        Raises:
            RegistryError: There is no such version, or MLflow refused.
        """
        with self._reporting(f"tag {name} version {version}"):
            for key, value in tags.items():
                self.client.set_model_version_tag(name, str(version), key, str(value))

    def _is_whole(self, version: ModelVersion) -> bool:
        """Whether a version is still there, with its files."""
        with _unless_gone():
            source = self.client.get_model_version(version.name, str(version.version)).source
            return has_files(self.client, source)
        return False

    def _delete(self, name: str, version: int) -> None:
        with _unless_gone():
            self.client.delete_model_version(name, str(version))

    def _reporting(self, what: str) -> AbstractContextManager[None]:
        return reporting(self.tracking_uri, what)


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Leaves the block when it finds that another machine was faster and deleted what it is about."""
    try:
        yield
    except Exception as error:
        if error_code(error) != "RESOURCE_DOES_NOT_EXIST":
            raise


def fetch(reference: str, target: str | Path | None = None) -> Path:
    """Bring a registered version to this machine: `Eraser.load` takes what comes back.

    The registry, the store and the work folder are those of the command line: MLFLOW_TRACKING_URI, CPE_STORE and
    CPE_WORK, by default all in the folder `work`.

    Args:
        reference: As for `Registry.resolve`, such as "models:/cpe-emoji@champion".
        target: A folder to make. None takes one in the work folder, which further calls find whole.

    Returns:
        The folder with the version's gates.

    Raises:
        RegistryError: There is no such version, its files are gone or damaged, no store has its gates, or `target`
            holds something already.
    """
    registry = Registry(defaults.tracking_uri(), store_url=defaults.store_url())
    if target is not None:
        return registry.fetch(reference, Path(target))
    return registry.fetch_once(reference, defaults.work_folder() / "fetched" / "models")

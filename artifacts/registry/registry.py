"""Runs, model versions and aliases in MLflow: what was made, with which results, and which version is in use.

A registered model `cpe-<list>` has versions (bundles of gates). The alias `champion` is the version to use, `previous`
the one to go back to.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from artifacts.registry.champions import Champions
from artifacts.registry.champions import bundle_of as bundle_of
from artifacts.registry.late import LateClient
from artifacts.registry.link import RegistryError as RegistryError
from artifacts.registry.link import error_code, sqlite_path
from artifacts.registry.looking import Lookups
from artifacts.registry.runs import (
    check_artifact_path,
    experiment_id,
    holds_files,
    log_values,
)
from artifacts.registry.versions import CHAMPION, check_model_name
from artifacts.registry.versions import ModelVersion as ModelVersion


class Registry(Lookups, Champions):
    """Runs and registered models of one MLflow tracking URI.

    Args:
        tracking_uri: "sqlite:///relative.db", "sqlite:////absolute.db" or "http(s)://…". The folder of a SQLite
            database is created, and the database too (7 to 9 s, once), when something is written first.
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
        self.client: Any = LateClient(tracking_uri)
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
            return self._has_files(version.name, version.version)
        return False

    def _delete(self, name: str, version: int) -> None:
        with _unless_gone():
            self.client.delete_model_version(name, str(version))


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Leaves the block when it finds that another machine was faster and deleted what it is about."""
    try:
        yield
    except Exception as error:
        if error_code(error) != "RESOURCE_DOES_NOT_EXIST":
            raise

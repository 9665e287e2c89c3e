"""What the registry needs from MLflow runs: an experiment, values logged within the limits, files that are there."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts.disk import rename_new, temporary_sibling
from artifacts.hashing import folder_hash
from artifacts.registry.link import RegistryError, error_code

REGISTER_AGAIN = "choose another version, or run `cpe erase` with its list again, which registers the same gates anew"
BATCH = 100  # values a request may hold: MLflow's limit for params and for tags


def experiment_id(client: Any, name: str, artifact_root: str | None) -> str:
    """Give the id of an experiment, created when missing.

    Args:
        client: An `MlflowClient`.
        name: The experiment.
        artifact_root: Where its runs keep their files if it is created now; None is MLflow's own choice.

    Returns:
        The id.

    Raises:
        RegistryError: An experiment of that name is in MLflow's trash.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root))
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another worker was faster
    if found.lifecycle_stage == "deleted":
        raise RegistryError(
            f"experiment {name!r} was deleted; restore it (mlflow experiments restore -x {found.experiment_id}) "
            "or name another one"
        )
    return str(found.experiment_id)


def log_values(
    client: Any, run_id: str, params: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]
) -> None:
    """Log params, metrics and tags in as many requests as MLflow's limits ask for; long text is cut, ending in "…"."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

    now = time.time_ns() // 1_000_000
    for part in _parts([Param(key, _cut(str(value), MAX_PARAM_VAL_LENGTH)) for key, value in params.items()]):
        client.log_batch(run_id, params=part)
    for part in _parts([Metric(key, float(value), now, 0) for key, value in metrics.items()]):
        client.log_batch(run_id, metrics=part)
    for part in _parts([RunTag(key, _cut(str(value), MAX_TAG_VAL_LENGTH)) for key, value in tags.items()]):
        client.log_batch(run_id, tags=part)


def holds_files(client: Any, run_id: str, artifact_path: str) -> bool:
    """Say whether a run holds at least one file under an artifact path."""
    entries = client.list_artifacts(run_id, artifact_path)
    return any(not entry.is_dir or holds_files(client, run_id, entry.path) for entry in entries)


def require_files(client: Any, name: str, version: int) -> None:
    """Refuse a model version whose files are gone.

    Raises:
        RegistryError: Its run holds no file where the version says.
    """
    source = client.get_model_version(name, str(version)).source
    if not has_files(client, source):
        raise RegistryError(
            f"model {name!r} version {version} points at {source}, where there are no files; {REGISTER_AGAIN}"
        )


def has_files(client: Any, source: str) -> bool:
    """Say whether there are files where a model version points."""
    run_id, _, artifact_path = source.removeprefix("runs:/").partition("/")
    if not source.startswith("runs:/"):
        return False
    try:
        return holds_files(client, run_id, artifact_path)
    except Exception as error:
        if error_code(error) != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False  # the run itself is gone


def download(
    client: Any, source: str, target: Path, expected: str | None, complete: Callable[[Path], None] = lambda folder: None
) -> Path:
    """Download the files of a model version into a new folder, all or nothing.

    Args:
        client: An `MlflowClient`.
        source: The version's source, "runs:/<run id>/<artifact path>".
        target: The folder to make; missing or empty.
        expected: `folder_hash` of the files; None leaves them unchecked.
        complete: Adds to the downloaded folder what it names and does not hold.

    Returns:
        `target`.

    Raises:
        RegistryError: The source is of another kind, its files are gone or damaged, or `target` holds something.
    """
    run_id, _, artifact_path = source.removeprefix("runs:/").partition("/")
    if not source.startswith("runs:/") or not artifact_path:
        raise RegistryError(f"source {source} was registered by another tool; fetch it with that tool")
    gone = RegistryError(f"the files of run {run_id} under {artifact_path!r} are gone; {REGISTER_AGAIN}")
    busy = RegistryError(f"target must be a missing or empty folder, got {target}; empty it or name another one")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise busy
    if not has_files(client, source):
        raise gone
    with temporary_sibling(target) as temporary:
        folder = Path(client.download_artifacts(run_id, artifact_path, str(temporary)))
        if not folder.is_dir():
            raise gone
        if expected is not None and folder_hash(folder) != expected:
            raise RegistryError(
                f"the files of run {run_id} under {artifact_path!r} are not what was registered: damaged or changed; "
                "restore them from a copy; or delete this version and run `cpe erase` with its list again"
            )
        complete(folder)
        if not rename_new(folder, target):
            raise busy
    return target


def check_artifact_path(path: str) -> str:
    """Refuse an artifact path that is not a plain relative one, and return a good one.

    Raises:
        ValueError: It is empty, absolute, or has empty parts, "." or "..".
    """
    if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path:
        raise ValueError(f"artifact path must be a plain relative path such as 'bundle', got {path!r}; rename it")
    return path


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"

"""A registered version, from wherever it is to this machine."""

from pathlib import Path

from artifacts import defaults
from artifacts.registry.registry import Registry


def fetch(reference: str, target: str | Path | None = None) -> Path:
    """Bring a registered version to this machine: `Eraser.load` takes what comes back.

    The registry, the store and the work folder are those of the command line: MLFLOW_TRACKING_URI, CPE_STORE and
    CPE_WORK, by default all in the folder `work`.

    Example:
        >>> sorted(path.name for path in fetch("models:/cpe-few@champion").iterdir())
        ['gates', 'index.json', 'manifest.json']

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

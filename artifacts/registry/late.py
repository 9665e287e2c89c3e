"""A client of MLflow that is made once it is needed."""

from pathlib import Path
from typing import Any

from artifacts.registry.link import connect, sqlite_path
from artifacts.registry.sqlite import is_known


class LateClient:
    """An `MlflowClient` made when it is first used: loading MLflow takes seconds, and some questions need none.

    Args:
        tracking_uri: As for `connect`.

    Raises:
        RegistryError: As `connect` does, at once, unless the URI is a SQLite database that is there in a known form, or
            that can still be made.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._client: Any = None
        path = sqlite_path(tracking_uri)
        if path is None or not (is_known(path) or _is_free(path)):
            self._connected()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connected(), name)

    def _connected(self) -> Any:
        if self._client is None:
            self._client = connect(self._tracking_uri)
        return self._client


def _is_free(path: Path) -> bool:
    """Whether there is nothing at a path, and nothing in its way."""
    return not path.exists() and next(each for each in path.absolute().parents if each.exists()).is_dir()

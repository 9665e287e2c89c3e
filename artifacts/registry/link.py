"""The link to MLflow: a quiet client for one tracking URI, and its errors in one clear sentence."""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.disk import ADVICE
from wording.foreign import told

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
SQLITE_HEADER = b"SQLite format 3\0"
SETTINGS = {
    # MLflow's own defaults try a dead server for many minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
WAYS_OUT = {
    "RESOURCE_DOES_NOT_EXIST": "check the name and the run, they may have been deleted",
    "INVALID_PARAMETER_VALUE": "correct the value",
    "PERMISSION_DENIED": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "UNAUTHENTICATED": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
}
UNREACHABLE = "check that the MLflow server runs and that the tracking uri (MLFLOW_TRACKING_URI) is right"


class RegistryError(RuntimeError):
    """The registry cannot do what it was asked; the message says why and what to do."""


def connect(tracking_uri: str) -> "MlflowClient":
    """Make a client; a new SQLite database and its folder are created (7 to 9 s, once).

    Args:
        tracking_uri: "sqlite:///relative.db", "sqlite:////absolute.db", "http(s)://…" or what else MLflow knows.

    Returns:
        A client for runs and models of this URI, independent of MLflow's global one.

    Raises:
        RegistryError: The URI is empty or unknown, or its database is unusable. A server is not contacted yet.
    """
    if not tracking_uri:
        raise RegistryError("tracking_uri is empty; set MLFLOW_TRACKING_URI, for example to sqlite:///mlflow.db")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with reporting(tracking_uri, "open"):
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logger = logging.getLogger(name)
            logger.setLevel(max(logger.level, logging.WARNING))
        with _alone(sqlite_path(tracking_uri)):
            return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def sqlite_path(tracking_uri: str) -> Path | None:
    """Give the database file of a SQLite URI; None for other URIs and for databases in memory."""
    text = tracking_uri.partition("?")[0].removeprefix(SQLITE)
    return Path(text) if tracking_uri.startswith(SQLITE) and text not in ("", ":memory:") else None


@contextmanager
def reporting(tracking_uri: str, what: str) -> Iterator[None]:
    """Turn the errors of MLflow and of what lies below it into a RegistryError.

    Args:
        tracking_uri: Named in the message, without credentials.
        what: What was tried, for "cannot … the registry".

    Raises:
        RegistryError: Something failed inside.
    """
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        if not isinstance(error, (OSError, ImportError, *_errors_below())):
            raise
        text = told(without_credentials(str(error), tracking_uri), 300)
        where = _public(tracking_uri)
        message = f"cannot {what} at {where}: {text}; {_way_out(error)}"
        raise RegistryError(message) from (error if where == tracking_uri else None)


def _errors_below() -> tuple[type[Exception], ...]:
    """Give the errors of MLflow and of what lies below it, which are loaded only once there is an error."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, *_errors_of_s3())


def _errors_of_s3() -> tuple[type[Exception], ...]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError, Boto3Error)


def without_credentials(text: str, tracking_uri: str) -> str:
    """Cut what a tracking URI has before its last "@" and after "?", wherever it appears, out of a text."""
    text = text.replace(tracking_uri, _public(tracking_uri))
    before, _, _ = tracking_uri.rpartition("@")
    user, options = before.partition("://")[2], tracking_uri.partition("?")[2]
    for secret, instead in ((f"{user}@" if user else "", ""), (user, "…"), (options, "…")):
        text = text.replace(secret, instead) if secret else text
    return text


def _public(tracking_uri: str) -> str:
    """Give a tracking URI without a user, a password (both, where they hold a "/" or "#", too) and options."""
    if tracking_uri.startswith("sqlite"):
        return tracking_uri
    rest = re.sub(r"^(?:[A-Za-z][A-Za-z0-9+.-]*:/*)?.*@", "", tracking_uri, flags=re.DOTALL)
    scheme = tracking_uri.partition("://")[0] + "://" if "://" in tracking_uri and rest != tracking_uri else ""
    return (scheme + rest).partition("?")[0]


def error_code(error: Any) -> str:
    """Give MLflow's name of an error, such as RESOURCE_ALREADY_EXISTS."""
    return str(getattr(error, "error_code", ""))


def _way_out(error: Exception) -> str:
    if error_code(error) in WAYS_OUT:
        return WAYS_OUT[error_code(error)]
    if isinstance(error, _errors_of_s3()):
        return "check the S3 address and credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
    return ADVICE.get(getattr(error, "errno", None) or 0, UNREACHABLE)


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Let one process at a time create the tables of a SQLite database: two at once break each other."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / f".{path.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
        _check_sqlite(path)
        yield


def _check_sqlite(path: Path) -> None:
    """Look at a database before MLflow does, which would try a broken one for a minute and a half."""
    if path.is_dir():
        raise OSError(f"{path} is a folder, not a database file")
    if path.is_file() and path.stat().st_size:
        with open(path, "rb") as file:
            if file.read(len(SQLITE_HEADER)) != SQLITE_HEADER:
                raise OSError(f"{path} is no SQLite database; move it away or name another file")

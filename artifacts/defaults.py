"""Where things are unless the environment says otherwise: the same for the command line, for flows and for `fetch`."""

import os
from collections.abc import Mapping
from pathlib import Path


def work_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder of caches, pictures, reports and results (CPE_WORK, default "work")."""
    return Path(environment.get("CPE_WORK", "work")).absolute()


def store_url(environment: Mapping[str, str] = os.environ) -> str:
    """Returns the artifact store's address (CPE_STORE, default a folder inside the work folder)."""
    return environment.get("CPE_STORE", (work_folder(environment) / "store").as_uri())


def tracking_uri(environment: Mapping[str, str] = os.environ) -> str:
    """Returns MLflow's address (MLFLOW_TRACKING_URI, default SQLite inside the work folder)."""
    return environment.get("MLFLOW_TRACKING_URI", f"sqlite:///{work_folder(environment) / 'mlflow.db'}")

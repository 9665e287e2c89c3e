"""The passwords and keys of the local stack."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from wording.files import whole

USER = "cpe"


@dataclass(frozen=True)
class Keys:
    """What opens the stack's doors; it travels in environments only.

    Attributes:
        prefect: password of Prefect's server.
        mlflow: password of MLflow's server.
        access: Ceph's access key; "" without Ceph.
        secret: Ceph's secret key.
    """

    prefect: str = field(repr=False)
    mlflow: str = field(repr=False)
    access: str = ""
    secret: str = field(default="", repr=False)

    @property
    def prefect_pair(self) -> str:
        """User and password as Prefect takes them."""
        return f"{USER}:{self.prefect}"

    @property
    def mlflow_pair(self) -> str:
        """User and password of MLflow's server."""
        return f"{USER}:{self.mlflow}"


def write_private(path: Path, text: str) -> None:
    """Writes a file of mode 600, whole or not at all."""
    with whole(path) as beside, open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)

"""Where the local stack keeps its data and where it listens; from the environment."""

import json
import os
import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stack.keys import USER, Keys, write_private

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LOOPBACK = "127.0.0.1"
POOL = "gpu"
CEPH_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
CEPH_PACKAGES = "apt-get install ceph-mon ceph-osd radosgw ceph-common"
DEFAULTS = {
    "CPE_STACK": "work/stack",
    "CPE_STACK_S3": "auto",
    "CPE_STACK_BUCKET": "cpe",
    "CPE_STACK_GIB": "32",
    "CPE_STACK_PREFECT_PORT": "4200",
    "CPE_STACK_MLFLOW_PORT": "5000",
    "CPE_STACK_S3_PORT": "7480",
    "CPE_STACK_CEPH_PORT": "13300",
}
STORES = ("auto", "ceph", "folder")
BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
LIMITS = {"CPE_STACK_GIB": (4, 1 << 14)}
PORTS = (1, 65535)
# Settings of the caller's other servers and accounts, which must not reach this stack's processes.
FOREIGN = ("PREFECT_", "MLFLOW_", "AWS_", "CEPH_")


class StackError(Exception):
    """What keeps the stack from starting or stopping: one line, with the way out."""


@dataclass(frozen=True)
class Settings:
    """Folders, ports and the kind of store.

    Attributes:
        root: folder of data, pid files and logs (CPE_STACK, default "work/stack").
        work: work folder of the flows (CPE_WORK, default "work").
        store: "ceph", "folder" or "auto", of which `decided` makes one of the others (CPE_STACK_S3).
        bucket: made in the store (CPE_STACK_BUCKET).
        gib: most that Ceph may hold, fixed when its data are made (CPE_STACK_GIB).
        prefect_port: of Prefect's server (CPE_STACK_PREFECT_PORT).
        mlflow_port: of MLflow's server (CPE_STACK_MLFLOW_PORT).
        s3_port: of the store (CPE_STACK_S3_PORT).
        ceph_port: of Ceph's monitor (CPE_STACK_CEPH_PORT).
    """

    root: Path
    work: Path
    store: str
    bucket: str
    gib: int
    prefect_port: int
    mlflow_port: int
    s3_port: int
    ceph_port: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Reads the environment.

        Raises:
            StackError: an unknown CPE_STACK setting, or a value that it cannot have.
        """
        unknown = [name for name in environment if name.startswith("CPE_STACK") and name not in DEFAULTS]
        if unknown:
            raise StackError(f"there is no setting {unknown[0]}; there are {', '.join(DEFAULTS)}")
        values = {**DEFAULTS, **{name: environment[name] for name in DEFAULTS if environment.get(name)}}
        if values["CPE_STACK_S3"] not in STORES:
            raise StackError(f"CPE_STACK_S3 must be one of {', '.join(STORES)}, got {values['CPE_STACK_S3']!r}")
        if not BUCKET_PATTERN.fullmatch(values["CPE_STACK_BUCKET"]):
            raise StackError(
                "CPE_STACK_BUCKET must be 3 to 63 small letters, digits, '-' and '.', "
                f"got {values['CPE_STACK_BUCKET']!r}"
            )
        settings = cls(
            root=Path(values["CPE_STACK"]).absolute(),
            work=Path(environment.get("CPE_WORK") or "work").absolute(),
            store=values["CPE_STACK_S3"],
            bucket=values["CPE_STACK_BUCKET"],
            gib=_number("CPE_STACK_GIB", values),
            prefect_port=_number("CPE_STACK_PREFECT_PORT", values),
            mlflow_port=_number("CPE_STACK_MLFLOW_PORT", values),
            s3_port=_number("CPE_STACK_S3_PORT", values),
            ceph_port=_number("CPE_STACK_CEPH_PORT", values),
        )
        names = ["CPE_STACK_PREFECT_PORT", "CPE_STACK_MLFLOW_PORT", "CPE_STACK_S3_PORT", "CPE_STACK_CEPH_PORT"]
        if len({values[name] for name in names}) < len(names):
            raise StackError(f"{', '.join(names)} must differ; choose another number for one of them")
        return settings

    def decided(self) -> "Settings":
        """Returns the settings with the store that serves this stack: where its data are, else Ceph if it is there.

        Raises:
            StackError: it must be Ceph, which is not installed.
        """
        missing = [program for program in CEPH_PROGRAMS if shutil.which(program) is None]
        has_ceph, has_files = (self.root / "ceph").exists(), self.files.exists()
        if self.store == "folder" or (self.store == "auto" and not has_ceph and (missing or has_files)):
            return replace(self, store="folder")
        if missing:
            raise StackError(
                f"Ceph {'has the data of this stack' if has_ceph else 'is asked for'}, but {missing[0]} is missing; "
                f"install it ({CEPH_PACKAGES}), or set CPE_STACK_S3=folder for a store of its own in {self.files}"
            )
        return replace(self, store="ceph")

    def keys(self) -> Keys:
        """Returns the servers' passwords, made at random the first time; Ceph's keys are its own."""
        path = self.root / "keys"
        if not path.exists():
            write_private(path, json.dumps({name: secrets.token_hex(20) for name in ("prefect", "mlflow")}))
        return Keys(**json.loads(path.read_text()))

    @property
    def prefect_url(self) -> str:
        """Prefect's API."""
        return f"http://{LOOPBACK}:{self.prefect_port}/api"

    @property
    def mlflow_url(self) -> str:
        """MLflow's tracking URI."""
        return f"http://{LOOPBACK}:{self.mlflow_port}"

    @property
    def s3_url(self) -> str:
        """The store's endpoint."""
        return f"http://{LOOPBACK}:{self.s3_port}"

    @property
    def store_url(self) -> str:
        """Where gates, pictures and scores are kept."""
        return f"s3://{self.bucket}/store" if self.store == "ceph" else (self.files / "store").as_uri()

    @property
    def artifacts_url(self) -> str:
        """Where MLflow's server keeps its files."""
        return f"s3://{self.bucket}/mlflow" if self.store == "ceph" else (self.files / "mlflow").as_uri()

    @property
    def files(self) -> Path:
        """The folder that is the store where Ceph is not."""
        return self.root / "files"

    @property
    def env_file(self) -> Path:
        """The file that a shell sources to use this stack."""
        return self.root / "env"

    @property
    def prefect_data(self) -> Path:
        """Prefect's home folder, with its database."""
        return self.root / "prefect"

    @property
    def mlflow_data(self) -> Path:
        """MLflow's folder: each kind of store has its own, so that no entry is about another's files."""
        return self.root / f"mlflow-{self.store}"

    def client_environment(self, keys: Keys) -> dict[str, str]:
        """Returns what a client of this stack has in its environment."""
        return {
            **self.prefect_environment(keys),
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": keys.mlflow,
            "CPE_WORK": str(self.work),
            "CPE_STORE": self.store_url,
            **self.store_environment(keys),
        }

    def prefect_environment(self, keys: Keys) -> dict[str, str]:
        """Returns what a client of Prefect alone has in its environment."""
        return {
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_API_AUTH_STRING": keys.prefect_pair,
            "PREFECT_HOME": str(self.prefect_data),
        }

    def store_environment(self, keys: Keys) -> dict[str, str]:
        """Returns what a client of the store alone has in its environment; a folder needs nothing."""
        if self.store != "ceph":
            return {}
        return {
            "AWS_ENDPOINT_URL": self.s3_url,
            "AWS_ACCESS_KEY_ID": keys.access,
            "AWS_SECRET_ACCESS_KEY": keys.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            # Newer checksum headers are unknown to many S3-compatible servers.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def write_env_file(self, keys: Keys) -> None:
        """Writes the file that a shell sources, readable by its owner only."""
        values = self.client_environment(keys) | no_proxy()
        lines = [
            "# Written by `make up`: `. FILE` makes a shell use this stack. It holds the passwords and keys.",
            "unset AWS_PROFILE AWS_SESSION_TOKEN AWS_ENDPOINT_URL_S3 PREFECT_API_KEY MLFLOW_TRACKING_TOKEN",
            *(f"export {name}={shlex.quote(value)}" for name, value in values.items()),
            f'case ":$PATH:" in *:{shlex.quote(str(BIN))}:*) ;; *) export PATH={shlex.quote(str(BIN))}:"$PATH" ;; esac',
        ]
        write_private(self.env_file, "\n".join(lines) + "\n")


def clean_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the caller's environment without settings of other servers and accounts."""
    kept = {name: value for name, value in environment.items() if not name.startswith(FOREIGN)}
    return {**kept, **no_proxy(environment), "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}


def no_proxy(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the variables that keep a proxy out of the way to the loopback."""
    given = (environment.get("no_proxy") or environment.get("NO_PROXY") or "").split(",")
    names = ",".join(dict.fromkeys([*filter(None, given), LOOPBACK, "localhost"]))
    return {"NO_PROXY": names, "no_proxy": names}


def _number(name: str, values: Mapping[str, str]) -> int:
    low, high = LIMITS.get(name, PORTS)
    text = values[name]
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise StackError(f"{name} must be a whole number from {low} to {high}, got {text!r}")
    return int(text)

"""Where things are: work folder, artifact store, tracking server; from the environment."""

import fcntl
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from artifacts import defaults
from artifacts.hashing import content_hash
from artifacts.registry.registry import Registry
from artifacts.stores.opening import open_store
from artifacts.stores.store import DamagedError, Store, StoreError

SHIPPED_LISTS = Path(__file__).parents[2] / "lists"  # in a checkout and in an installed package alike


@dataclass(frozen=True)
class Places:
    """The places a run reads and writes.

    Attributes:
        work: folder of caches, pictures, reports and results (CPE_WORK, default "work").
        store_url: the artifact store (CPE_STORE, default a folder inside `work`).
        tracking_uri: MLflow's (MLFLOW_TRACKING_URI, default SQLite inside `work`).
        data: folder of the user's own files: prompts, pictures, detectors' weights (CPE_DATA, default "data").
        lists_url: where concept lists are: a folder or s3://bucket/prefix (CPE_LISTS; default "lists", and where that
            folder is not, or holds none, the lists that are shipped).
        device: None takes the GPU if there is one (CPE_DEVICE).
        identity_command: a program that names celebrities (CPE_IDENTITY_COMMAND), see docs/celebrity-detector.md.
        threads: of torch (CPE_THREADS); small models are fastest with one.
    """

    work: Path
    store_url: str
    tracking_uri: str
    data: Path
    lists_url: str
    device: str | None
    identity_command: str | None
    threads: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Places":
        """Reads the environment.

        Raises:
            ValueError: CPE_THREADS is not a whole number above 0.
        """
        threads = environment.get("CPE_THREADS", "1")
        if not threads.isdigit() or int(threads) < 1:
            raise ValueError(f"CPE_THREADS must be a whole number of at least 1, got {threads!r}")
        return cls(
            work=defaults.work_folder(environment),
            store_url=defaults.store_url(environment),
            tracking_uri=defaults.tracking_uri(environment),
            data=Path(environment.get("CPE_DATA", "data")).absolute(),
            lists_url=environment.get("CPE_LISTS") or _own_or_shipped(),
            device=environment.get("CPE_DEVICE"),
            identity_command=environment.get("CPE_IDENTITY_COMMAND") or None,
            threads=int(threads),
        )

    def store(self) -> Store:
        """Opens the artifact store."""
        return open_store(self.store_url)

    def lists(self) -> Path:
        """Returns the folder of concept lists; those in S3 are brought up to date first."""
        if not self.lists_url.startswith("s3://"):
            return Path(self.lists_url.removeprefix("file://"))
        from artifacts.stores.lists import sync_lists

        folder = self.work / "lists" / content_hash(self.lists_url)[:8]
        with self.locked(f"lists-{folder.name}"):
            return sync_lists(self.lists_url, folder)

    def registry(self) -> Registry:
        """Opens the model registry."""
        artifact_root = None
        if self.tracking_uri.startswith("sqlite"):
            artifact_root = str(self.work / "mlartifacts")
        return Registry(self.tracking_uri, artifact_root=artifact_root, store_url=self.store_url)

    def fetched(self, key: str) -> Path:
        """Returns a local, verified copy of a stored artifact; each store has copies of its own."""
        target, store = self.work / "fetched" / content_hash(self.store_url)[:8] / key, self.store()
        try:
            return store.fetch(key, target)
        except DamagedError:
            raise
        except StoreError:
            if not (target.exists() and store.has(key)):
                raise
            shutil.rmtree(target)  # a copy of what was stored under this key before
            return store.fetch(key, target)

    def holds(self, key: str) -> bool:
        """Whether the store holds an artifact that is whole; a damaged one is moved away first, to be made again.

        Only for what the caller can make.
        """
        if not self.store().has(key):
            return False
        with suppress(DamagedError):
            self.fetched(key)
            return True
        with self.locked("mend"):
            try:
                self.fetched(key)  # somebody else may have mended it
                return True
            except DamagedError as error:
                what, aside = error.what, self.store().set_aside(key)
        print(f"cpe: artifact {key} is damaged ({what}): moved to {aside}, made again", file=sys.stderr)
        return False

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yields a temporary folder inside the work folder, removed afterwards."""
        parent = self.work / "scratch"
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=parent) as folder:
            yield Path(folder)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Lets one process at a time into the block, among those that share this work folder."""
        folder = self.work / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, also by a kill
            yield

    def owner(self) -> str:
        """Returns a name for this work folder that no other has, whatever its machine and path are called."""
        path = self.work / "owner"
        with self.locked("owner"):
            if not path.is_file() or not path.read_text():
                path.write_text(uuid.uuid4().hex)
            return path.read_text()

    def device_name(self) -> str:
        """Returns the device that models run on."""
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def loaded(self, base_model: str) -> Any:
        """Returns the base model's pipeline on this machine's device, with the threads set."""
        import torch

        from tasks.here.models import opened

        torch.set_num_threads(self.threads)
        return opened(base_model, self.device)


def _own_or_shipped() -> str:
    """Returns the folder of lists that counts where none is named."""
    return "lists" if any(Path("lists").glob("*.yaml")) else str(SHIPPED_LISTS)

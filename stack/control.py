"""Starting, stopping and showing the stack."""

import shlex
import time
from pathlib import Path

from stack import servers
from stack.ceph import Ceph
from stack.keys import Keys
from stack.processes import Processes, Service
from stack.settings import Settings, StackError
from stack.signals import uninterrupted
from stack.system import check_port

MEMORY = "moto"  # the store of former versions, in memory; a stack that still runs on it must be stoppable
# In the order of their start; they are stopped the other way round.
NAMES = ("prefect", MEMORY, "ceph-mon", "ceph-osd", "radosgw", "mlflow", "worker")
ALWAYS = ("prefect", "mlflow", "worker")
DOWN_WAITS_S = 120  # for a start that is being interrupted
NO_KEYS = Keys("", "")


class Stack:
    """The stack of one folder.

    Args:
        settings: folders and ports.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.processes = Processes(settings.root)
        self.started: list[str] = []

    def up(self) -> None:
        """Starts what does not run yet, deploys the flows and says how to use it.

        Raises:
            StackError: something is missing or refuses to start; what this call started is stopped again.
            KeyboardInterrupt: likewise.
        """
        with self.processes.locked():
            self.started = []
            try:
                self._up()
            except BaseException:
                with uninterrupted():
                    for name in reversed(self.started):
                        self.processes.stop(name)
                raise

    def down(self) -> None:
        """Stops the worker, then the servers; a flow in progress is ended and can be run again."""
        if not self.settings.root.exists():
            print(f"nothing runs: there is no {self.settings.root}")
            return
        with self.processes.locked(DOWN_WAITS_S), uninterrupted():
            if self.processes.alive("worker") and self.processes.children("worker"):
                print("a flow run is in progress: it ends as Crashed; run it again, and it goes on where it was")
            stopped = [name for name in reversed(NAMES) if self.processes.stop(name)]
        print(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")

    def status(self) -> bool:
        """Prints what runs; returns whether that is everything."""
        known = [name for name in NAMES if self.processes.pid_file(name).exists()]
        shown = [name for name in NAMES if name in known or name in ALWAYS]
        in_folder = "radosgw" not in known and self.settings.files.exists()
        has_store = in_folder or "radosgw" in known
        if "radosgw" not in known:
            print(f"store     a folder of its own, {self.settings.files}" if in_folder else "store     stopped")
        for name in shown:
            record = self.processes.record(name)
            if record is not None and self.processes.alive(name):
                memory = f"{self.processes.memory_mib(name):.0f} MiB"
                print(f"{name:<9} runs     pid {record.pid:<8} {memory:>8}  {record.address}")
            elif self.processes.left_over(name):
                print(f"{name:<9} ENDED    by itself; see {self.processes.log(name)}; `make up` starts it again")
            else:
                print(f"{name:<9} stopped")
        return has_store and all(self.processes.alive(name) for name in shown)

    def _up(self) -> None:
        settings = self.settings.decided()
        self._check_former_store()
        store = Ceph(settings, servers.answers) if settings.store == "ceph" else None
        keys = settings.keys()
        prefect = servers.prefect_server(settings, keys)
        rest = [servers.mlflow_server(settings, NO_KEYS), servers.worker(settings, NO_KEYS)]
        if self._all_up([prefect, *(store.services if store else ()), *rest]):
            print(f"already up\n{self._use()}")
            return
        began = time.monotonic()
        self._start(prefect)
        if store is None:
            settings.files.mkdir(exist_ok=True)
            print(f"store     a folder of its own, {settings.files}")
        else:
            for service in store.services:
                if not self.processes.alive(service.name):
                    store.prepare(service)
                self._start(service)
                self._wait(service)
            keys = store.with_keys(keys)
            servers.make_bucket(settings, keys)
        mlflow = servers.mlflow_server(settings, keys)
        self._start(mlflow)
        self._wait(prefect)
        servers.deploy(settings, keys, self.processes)
        print("deployed  everything in prefect.yaml")
        self._wait(mlflow)
        worker = servers.worker(settings, keys)
        self._start(worker)
        self._wait(worker)
        settings.write_env_file(keys)
        print(f"up after {time.monotonic() - began:.0f} s\n{self._use()}")

    def _check_former_store(self) -> None:
        """Says what became of a store in memory, which former versions had where Ceph is not.

        Raises:
            StackError: it still runs, and stopping it would lose what it holds.
        """
        if self.processes.alive(MEMORY):
            raise StackError(
                f"{MEMORY} runs, a store of a former version that forgets everything when it stops; copy what you need "
                f"out of it first (gates and pictures: bucket {self.settings.bucket}), then make down and make up"
            )
        known = self.settings.root / f"mlflow-{MEMORY}"
        if known.exists():
            print(
                f"note      {known} names models whose files {MEMORY} forgot when it stopped; it is not used any more: "
                "erase the lists again, and remove that folder"
            )

    def _all_up(self, services: list[Service]) -> bool:
        """Returns whether all services run; if not, checks that the missing ones can be started.

        Raises:
            StackError: something of another store or at another address runs, or a port is taken.
        """
        names = {service.name for service in services}
        for name in NAMES:
            if name not in names and self.processes.alive(name):
                raise StackError(f"{name} runs, which these settings do not use; stop it first: make down")
        missing = []
        for service in services:
            record = self.processes.record(service.name)
            if record is None or not self.processes.alive(service.name):
                missing.append(service)
            elif record.address != service.address:
                raise StackError(
                    f"{service.name} runs at {record.address}, but the settings say {service.address}; "
                    "stop it first (make down), or use the settings of its start"
                )
        for name in NAMES:
            if self.processes.left_over(name):
                print(f"{name:<9} ended by itself, its pid file is stale")
                self.processes.stop(name)
        for service in missing:
            for setting, port in service.ports.items():
                check_port(service.name, port, setting)
        return not missing

    def _start(self, service: Service) -> None:
        if not self.processes.alive(service.name):
            self.started.append(service.name)
            self.processes.start(service)

    def _wait(self, service: Service) -> None:
        if service.name in self.started:
            self.processes.wait(service)
            print(f"{service.name:<9} runs  {service.address}".rstrip(), flush=True)

    def _use(self) -> str:
        path = self.settings.env_file
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"use it:   . {shlex.quote(str(shown))}"

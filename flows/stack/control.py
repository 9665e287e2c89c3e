"""Starting, stopping and showing the stack."""

import shlex
import time
from pathlib import Path

from flows.stack import servers
from flows.stack.ceph import Ceph
from flows.stack.processes import Processes, Service
from flows.stack.settings import Keys, Settings, StackError
from flows.stack.signals import uninterrupted
from flows.stack.system import check_port

# In the order of their start; they are stopped the other way round.
NAMES = ("prefect", "moto", "ceph-mon", "ceph-osd", "radosgw", "mlflow", "worker")
ALWAYS = ("prefect", "mlflow", "worker")
STORES = ("moto", "radosgw")
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
        has_store = any(name in STORES for name in known)
        if not has_store:
            print("store     stopped")
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
        settings = self.settings
        kind = settings.store()
        store: servers.Store = Ceph(settings, servers.answers) if kind == "ceph" else servers.Moto(settings)
        prefect = servers.prefect_server(settings)
        rest = [servers.mlflow_server(settings, kind, NO_KEYS), servers.worker(settings, NO_KEYS)]
        if self._all_up([prefect, *store.services, *rest]):
            print(f"already up\n{self._use()}")
            return
        if kind == "moto":
            print(f"warning: {servers.Moto.WARNING}")
            if not self.processes.alive("moto"):
                for name in ("worker", "mlflow"):  # they know of files that went with moto
                    self.processes.stop(name)
        began = time.monotonic()
        self._start(prefect)
        for service in store.services:
            if not self.processes.alive(service.name):
                store.prepare(service)
            self._start(service)
            self._wait(service)
        keys = store.keys()
        servers.make_bucket(settings, keys)
        mlflow = servers.mlflow_server(settings, kind, keys)
        self._start(mlflow)
        self._wait(prefect)
        servers.deploy(settings, self.processes)
        print("deployed  everything in prefect.yaml")
        self._wait(mlflow)
        worker = servers.worker(settings, keys)
        self._start(worker)
        self._wait(worker)
        settings.write_env_file(keys)
        print(f"up after {time.monotonic() - began:.0f} s\n{self._use()}")

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

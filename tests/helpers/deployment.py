"""A Prefect server with the project deployed on it, shared by the tests of a module."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled

from helpers.faults_servers import Server
from helpers.places import PROJECT

PREFECT = Path(sys.executable).with_name("prefect")


def heed_interrupts() -> None:
    """Lets SIGINT end a child even where the tests were started in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Deployed:
    """Runs prefect commands against the server; knows the runs that came after its own beginning.

    Attributes:
        environment: of the commands.
        said: what `prefect deploy` said.
    """

    def __init__(self, environment: dict[str, str], said: str = "") -> None:
        self.environment, self.said = environment, said
        self.earlier: set[UUID] = set()

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [PREFECT, "--no-prompt", *arguments], env=self.environment, cwd=PROJECT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def runs(self, flow: str | None = None) -> list[FlowRun]:
        """Returns the runs since then, of one flow or of all."""
        wanted = FlowFilter(name=FlowFilterName(any_=[flow])) if flow else None
        with get_client(sync_client=True) as client:
            return [run for run in client.read_flow_runs(flow_filter=wanted) if run.id not in self.earlier]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A server of this module's own: a pool without workers, all deployments, and no schedule that ticks."""
    folder = tmp_path_factory.mktemp("deployed")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(folder / "prefect"),
        "CPE_WORK": str(folder / "work"),
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    command = [str(PREFECT), "server", "start", "--host", "127.0.0.1", "--port", "{port}"]
    started = Server("server", command, "/api/health", folder, environment)
    environment["PREFECT_API_URL"] = f"{started.url}/api"
    started.start()
    try:
        prefect = Deployed(environment)
        prefect("work-pool", "create", "gpu", "--type", "process")
        prefect.said = prefect("deploy", "--all")
        prefect("deployment", "schedule", "pause", "--all")  # the watcher would start its own list in the middle
        yield prefect
    finally:
        started.stop()


@pytest.fixture
def deployed(server: Deployed, tmp_path: Path) -> Iterator[Deployed]:
    """The server for one test: with a work folder of its own, and none of its runs left for the next test's workers."""
    own = Deployed({**server.environment, "CPE_WORK": str(tmp_path / "work")}, server.said)
    with temporary_settings({PREFECT_API_URL: own.environment["PREFECT_API_URL"]}):
        own.earlier = {run.id for run in own.runs()}
        yield own
        with get_client(sync_client=True) as client:
            for run in own.runs():
                if run.state is None or not run.state.is_final():
                    client.set_flow_run_state(run.id, Cancelled(), force=True)

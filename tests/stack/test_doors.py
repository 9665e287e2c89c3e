"""The stack's doors: what another account, a web page or a name that points here gets of a stack that runs."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from artifacts.stores.opening import open_store
from helpers.doors import as_nobody, fetched_by_a_page, needs_browser, only_root_changes_accounts, status_for_nobody
from helpers.ports import free_ports
from stack.control import Stack
from stack.keys import Keys
from stack.settings import Settings
from tasks.desk.doctor import Check, examine
from tasks.here.places import Places

pytestmark = pytest.mark.slow

SOCKETS = (
    "/events/in",
    "/events/out",
    "/logs/out",
    "/task_runs/subscriptions/scheduled",
    "/work_pools/gpu/workers/connect",
)
EXPERIMENTS = "/api/2.0/mlflow/experiments"
JSON = {"content-type": "application/json"}


class Running:
    """A stack that runs, and how its owner speaks to it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings: Settings = stack.settings.decided()
        self.keys: Keys = self.settings.keys()
        self.environment = self.settings.client_environment(self.keys)

    def prefect(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Asks Prefect's server as its owner does."""
        return self._ask(f"{self.settings.prefect_url}{path}", self.keys.prefect_pair, method, body, headers)

    def mlflow(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Asks MLflow's server as its owner does."""
        return self._ask(f"{self.settings.mlflow_url}{path}", self.keys.mlflow_pair, method, body, headers)

    def state(self) -> tuple[Any, ...]:
        """Returns everything that the attempts below would change."""
        runs = self.prefect("POST", "/flow_runs/filter", {}).json()
        deployments = self.prefect("POST", "/deployments/filter", {}).json()
        found = self.mlflow("POST", f"{EXPERIMENTS}/search", {"max_results": 100}).json()
        variables = {each["id"]: each["job_variables"] for each in deployments}
        assert len(variables) > 5
        return {run["id"] for run in runs if not run["auto_scheduled"]}, variables, found

    def attempts(self) -> list[tuple[int, str, str, Any]]:
        """Returns port, method, path and body of requests that would run a command of their own or change a record."""
        deployment = self.prefect("GET", "/deployments/name/erase-and-evaluate/emoji").json()["id"]
        own = {"command": "touch /tmp/run-by-another"}
        prefect, mlflow_port = self.settings.prefect_port, self.settings.mlflow_port
        return [
            (prefect, "POST", f"/api/deployments/{deployment}/create_flow_run", {"job_variables": own}),
            (prefect, "PATCH", f"/api/deployments/{deployment}", {"job_variables": own}),
            (prefect, "POST", "/api/flow_runs/filter", {}),
            (mlflow_port, "POST", f"{EXPERIMENTS}/create", {"name": "of another"}),
            (mlflow_port, "POST", f"/ajax-api{EXPERIMENTS.removeprefix('/api')}/create", {"name": "of another"}),
            (mlflow_port, "PUT", "/api/2.0/mlflow-artifacts/artifacts/0/file", {}),
            (mlflow_port, "POST", "/graphql", {"query": "query { test(inputString: \"x\") { output } }"}),
            (mlflow_port, "GET", "/", None),
        ]  # fmt: skip

    def _ask(self, url: str, pair: str, method: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        user, _, password = pair.partition(":")
        return httpx.request(method, url, json=body, headers=headers, auth=(user, password), timeout=60)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """The whole stack with a folder as its store, in a folder that others may enter but for the stack's own mode."""
    place = Path(tempfile.mkdtemp(prefix="cpe-doors-"))
    place.chmod(0o755)
    names = ("PREFECT", "MLFLOW", "S3", "CEPH")
    ports = {f"CPE_STACK_{name}_PORT": str(port) for name, port in zip(names, free_ports(4), strict=True)}
    given = {"CPE_STACK": str(place / "stack"), "CPE_WORK": str(place / "work"), "CPE_STACK_S3": "folder"}
    stack = Stack(Settings.from_environment(given | ports))
    try:
        stack.up()
        yield Running(stack)
    finally:
        stack.down()
        shutil.rmtree(place)


@only_root_changes_accounts
def test_another_account_changes_nothing_and_reads_nothing(running: Running) -> None:
    port = running.settings.prefect_port
    assert status_for_nobody(port, "GET", "/api/health") == 200, "it reaches the server"
    before = running.state()
    for attempt in running.attempts():
        assert status_for_nobody(*attempt) == 401, attempt
        wrong = base64.b64encode(b"cpe:wrong").decode()
        assert status_for_nobody(*attempt, authorization=f"Basic {wrong}") == 401, attempt
    assert running.state() == before


@only_root_changes_accounts
def test_another_account_reads_no_secret_from_a_file_or_a_process(running: Running) -> None:
    root = running.settings.root
    assert as_nobody("ls", str(root.parent)).returncode == 0
    processes = running.stack.processes
    environments = [
        f"/proc/{pid}/environ" for name in ("prefect", "mlflow", "worker") for pid in processes.members(name)
    ]
    assert len(environments) > 3
    for path in (root, root / "env", root / "keys", root / "prefect", root / "files", *environments):
        done = as_nobody("cat", str(path))
        assert (done.returncode, done.stdout) == (1, ""), path
        assert "Permission denied" in done.stderr


@pytest.mark.parametrize("path", SOCKETS)
def test_a_websocket_opens_to_nobody_without_the_password(running: Running, path: str) -> None:
    url = f"ws://127.0.0.1:{running.settings.prefect_port}/api{path}"
    with pytest.raises(InvalidStatus, match="403"), connect(url):
        pass  # no subprotocol: a client of former versions, which was not asked
    for token in (None, "", "cpe:wrong"):
        with connect(url, subprotocols=["prefect"]) as socket:  # type: ignore[list-item]
            socket.send(json.dumps({"type": "auth", "token": token}))
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=20)
    with connect(url, subprotocols=["prefect"]) as socket:  # type: ignore[list-item]
        socket.send(json.dumps({"type": "auth", "token": running.keys.prefect_pair}))
        assert json.loads(socket.recv(timeout=20)) == {"type": "auth_success"}


@pytest.mark.parametrize(
    "host", ["evil.test:{}", "evil.test", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.test:{}", ""]
)
def test_a_request_that_names_another_host_is_refused_even_with_the_password(running: Running, host: str) -> None:
    for ask, port, path in (
        (running.prefect, running.settings.prefect_port, "/admin/version"),
        (running.mlflow, running.settings.mlflow_port, f"{EXPERIMENTS}/get?experiment_id=0"),
        (running.mlflow, running.settings.mlflow_port, "/health"),
    ):
        assert ask("GET", path, Host=host.format(port)).status_code == 403
        assert ask("GET", path, Host=f"localhost:{port}").status_code == 200
    url = f"ws://127.0.0.1:{running.settings.prefect_port}/api/events/in"
    with pytest.raises(InvalidStatus, match="403"):
        connect(url, subprotocols=["prefect"], origin="http://evil.test")  # type: ignore[list-item, arg-type]


@pytest.mark.parametrize(
    "origin", ["http://evil.test", "http://127.0.0.1:1", "http://localhost", "null", "https://127.0.0.1:{}"]
)
def test_a_request_of_another_page_is_refused_even_with_the_password(running: Running, origin: str) -> None:
    for ask, port, path in (
        (running.prefect, running.settings.prefect_port, "/admin/version"),
        (running.mlflow, running.settings.mlflow_port, f"{EXPERIMENTS}/get?experiment_id=0"),
    ):
        wanted = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        foreign = origin.format(port)
        assert ask("GET", path, Origin=foreign).status_code == 403
        answer = ask("OPTIONS", path, Origin=foreign, **wanted)
        assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (403, None)
        assert ask("GET", path, Origin=f"http://localhost:{port}").status_code == 200


@needs_browser
def test_a_page_of_another_origin_changes_nothing_in_a_browser(running: Running) -> None:
    requests: list[tuple[str, dict[str, Any]]] = []
    for port, method, path, body in running.attempts():
        pair = running.keys.prefect_pair if port == running.settings.prefect_port else running.keys.mlflow_pair
        token = {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        data = None if body is None else json.dumps(body)
        for host in ("127.0.0.1", "localhost"):
            for options in (
                {"headers": JSON},
                {"headers": JSON, "credentials": "include"},
                {"headers": JSON | token},  # even a page that knows the password
                {"headers": {"content-type": "text/plain"}, "mode": "no-cors"},  # sent without asking first
            ):
                if method in ("GET", "POST") or "mode" not in options:
                    requests.append((f"http://{host}:{port}{path}", {"method": method, "body": data, **options}))
    before = running.state()
    told = fetched_by_a_page(requests)
    assert len(told) == len(requests)
    assert {text for text in told if text != "opaque 0 "} == {"TypeError: Failed to fetch"}, "nothing was read"
    assert running.state() == before, "nothing was changed"


def test_doctor_says_when_a_server_refuses_us(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def servers() -> dict[str, Check]:
        return {each.name: each for each in examine(Places.from_environment())}

    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    assert servers()["Prefect server"].there
    assert servers()["MLflow"].there
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "cpe:of another stack")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    refused = servers()
    assert not refused["Prefect server"].there
    assert "refuses us (401); check PREFECT_API_AUTH_STRING" in refused["Prefect server"].found
    assert not refused["MLflow"].there
    assert "MLFLOW_TRACKING_PASSWORD" in refused["MLflow"].found


def test_a_command_says_when_a_server_refuses_us(running: Running) -> None:
    environment = {**os.environ, **running.environment}
    del environment["PREFECT_API_AUTH_STRING"]
    command = [str(Path(sys.executable).with_name("cpe")), "watch", "--status"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "refuses this user; set PREFECT_API_AUTH_STRING" in done.stderr


def test_no_password_is_in_a_log_or_in_an_argument(running: Running) -> None:
    secrets = [running.keys.prefect.encode(), running.keys.mlflow.encode()]
    files = [*(running.settings.root / "logs").iterdir(), *Path("/proc").glob("[0-9]*/cmdline")]
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:
            continue  # ended
        assert not [secret for secret in secrets if secret in content], path


def test_what_was_stored_and_registered_is_there_after_down_and_up(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    gate = tmp_path / "gate"
    gate.mkdir()
    (gate / "manifest.json").write_text('{"concept": "tiger"}')
    open_store(os.environ["CPE_STORE"]).put("gates/3f2a", gate)
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run = client.create_run("0").info.run_id
    client.log_artifact(run, str(gate / "manifest.json"), "bundle")
    running.stack.down()
    running.stack.up()
    fetched = open_store(os.environ["CPE_STORE"]).fetch("gates/3f2a", tmp_path / "fetched")
    copy = Path(client.download_artifacts(run, "bundle", str(tmp_path)))
    for folder in (fetched, copy):
        assert (folder / "manifest.json").read_text() == '{"concept": "tiger"}'
    assert running.settings.keys() == running.keys

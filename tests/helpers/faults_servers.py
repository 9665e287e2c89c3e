"""Real servers that can be stopped and started, and a proxy before S3 that refuses, fills up or drops connections."""

import atexit
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from artifacts.registry.link import connect
from helpers.faults import Runner, clean_environment, wait_for

BIN = Path(sys.executable).parent
ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>no</Message></Error>"
PR_SET_PDEATHSIG = 1
Refusal = tuple[int, str]  # status and code
ACCESS_DENIED: Refusal = (403, "AccessDenied")
QUOTA_EXCEEDED: Refusal = (403, "QuotaExceeded")
INSUFFICIENT_STORAGE: Refusal = (507, "InsufficientStorage")


def end_with_parent() -> None:
    """Lets this process be killed when the tests are, who then cannot stop it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """A real server that can be stopped and started.

    Args:
        name: of its log.
        command: with {port} in it.
        health: path that answers once it is up.
        folder: for its log; it runs there.
        environment: all of it.
    """

    def __init__(
        self, name: str, command: Sequence[str], health: str, folder: Path, environment: dict[str, str]
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [part.format(port=self.port) for part in command]
        self.health, self.log, self.environment = self.url + health, folder / f"{name}.log", environment
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.launch()
        wait_for(self.answers, f"start of {self.log}", 300)

    def launch(self) -> None:
        """Starts it."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.log.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def answers(self) -> bool:
        """Whether it is up."""
        assert self.process is None or self.process.poll() is None, self.log.read_text()
        with suppress(OSError):
            urlopen(self.health, timeout=2).close()
            return True
        return False

    def stop(self) -> None:
        """Ends it, as a machine that goes down does."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(60)
            self.process = None


class Shared:
    """What all tests share, since each takes seconds to start, begun when it is first asked for.

    Attributes:
        prefect: the server of all runs.
        runner: starts them.
        environment: of runs.
        database: an MLflow database with its tables in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def prefect(self) -> Server:
        command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", "{port}"]
        environment = clean_environment(PREFECT_HOME=str(self.folder / "prefect"))
        server = Server("prefect", command, "/api/health", self.folder, environment)
        atexit.register(server.stop)
        server.start()
        return server

    @cached_property
    def environment(self) -> dict[str, str]:
        return {"PREFECT_HOME": str(self.folder / "prefect"), "PREFECT_API_URL": f"{self.prefect.url}/api"}

    @cached_property
    def runner(self) -> Runner:
        runner = Runner(self.folder, self.environment)
        atexit.register(runner.close)
        return runner

    @cached_property
    def database(self) -> Path:
        path = self.folder / "mlflow.db"
        connect(f"sqlite:///{path}")  # a registry would make it once it writes
        return path


_SHARED: list[Shared] = []


def shared(factory: pytest.TempPathFactory) -> Shared:
    """Returns what is shared by all modules of tests; it ends with this process."""
    if not _SHARED:
        _SHARED.append(Shared(factory.mktemp("shared")))
    return _SHARED[0]


@contextmanager
def on_prefect(factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets flows in this process, its commands' too, run on the shared server."""
    with temporary_settings({PREFECT_API_URL: shared(factory).environment["PREFECT_API_URL"]}):
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, database: Path) -> Iterator[Server]:
    """Yields an MLflow server over a database, not started yet."""
    environment = clean_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    files = (folder / "mlflow-files").as_uri()
    command = [
        str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1",
        "--backend-store-uri", f"sqlite:///{database}", "--serve-artifacts", "--artifacts-destination", files,
    ]  # fmt: skip
    server = Server("mlflow", command, "/health", folder, environment)
    try:
        yield server
    finally:
        server.stop()


class Proxy:
    """Stands before an S3 server; hands requests on unless it is told to do something else.

    Attributes:
        refuse: given method and path, says what to do: answer with a status and code, "drop" it, "lose" the answer, or
            hand both on (None).

    Args:
        port: of the server behind.
    """

    def __init__(self, port: int) -> None:
        self.behind = port
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.refuse: Callable[[str, str], Refusal | str | None] = lambda method, path: None
        self.server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Begins to listen."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with suppress(ConnectionError):
                    super().handle_one_request()

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self.relay
                raise AttributeError(name)

            def relay(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = "drop" if proxy.server is None else proxy.refuse(self.command, self.path)
                if answer == "drop":
                    self.hang_up()
                elif isinstance(answer, tuple):
                    status, code = answer
                    self.reply(status, {"Content-Type": "application/xml"}, ERROR.format(code=code).encode())
                else:
                    behind = http.client.HTTPConnection("127.0.0.1", proxy.behind, timeout=60)
                    behind.request(self.command, self.path, body, dict(self.headers))
                    found = behind.getresponse()
                    content = found.read()
                    behind.close()
                    if answer == "lose":
                        self.hang_up()
                    else:
                        self.reply(found.status, dict(found.getheaders()), content)

            def hang_up(self) -> None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

            def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *given: Any) -> None:
                pass

        ThreadingHTTPServer.daemon_threads = True
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stops listening, and hangs up on who is connected."""
        if self.server is not None:
            server, self.server = self.server, None
            server.shutdown()
            server.server_close()

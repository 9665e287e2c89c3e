"""A Prefect server with the project deployed on it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from helpers.places import PROJECT

PREFECT = Path(sys.executable).with_name("prefect")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def heed_interrupts() -> None:
    """Lets SIGINT end a child even where the tests were started in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def prefect(tmp_path):
    """Yields a function that runs prefect commands against a server of their own."""
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "CPE_WORK": str(tmp_path / "work"),
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    log = (tmp_path / "server.log").open("w")
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, preexec_fn=heed_interrupts)
    try:
        for _ in range(120):
            try:
                urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(1)

        def run(*arguments: str) -> str:
            done = subprocess.run(
                [PREFECT, "--no-prompt", *arguments], env=environment, cwd=PROJECT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        run.environment = environment
        yield run
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
        log.close()

"""The Prefect server of a command that has no other: a process beside it, started at once and waited for when needed.

It is started as Prefect starts one of its own, without loading Prefect's server into the command, which takes seconds;
what a command loads and reads, it does while the server gets ready.
"""

import atexit
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import httpx

ATTEMPTS = 3  # somebody else may take the port in between
POLL_S, END_S = 0.05, 5.0
OURS = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}  # as Prefect's own

_process: subprocess.Popen[bytes] | None = None
_url = ""
_password = ""
_settings = ExitStack()  # of this process, from then on


def start_prefect() -> None:
    """Starts the server, unless a lasting one is set, and returns at once; `await_prefect` waits until it answers.

    It is deaf to SIGINT: it must outlive the command, which tells it how the run ended. It asks for a password that
    this process alone knows, in the environments of both: other accounts reach its port.
    """
    global _password
    from prefect.settings import get_current_settings

    if get_current_settings().api.url or _process is not None:
        return
    _password = f"cpe:{secrets.token_urlsafe(24)}"
    atexit.register(stop_prefect)
    _begin()


def await_prefect() -> None:
    """Waits until the server that `start_prefect` started answers, and lets this process use it.

    Raises:
        RuntimeError: it does not answer in time.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    if _process is None:
        return
    patience_s = float(os.environ.get("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120"))
    end, left = time.monotonic() + patience_s, ATTEMPTS - 1
    while not _answers():
        code = _process.poll()
        if code is not None and left == 0:
            raise RuntimeError(
                f"the Prefect server of this command ended with code {code} (its own words are above); "
                "`prefect server start` shows more, and PREFECT_API_URL names another one"
            )
        if code is not None:
            left -= 1
            _begin()
        if time.monotonic() > end:
            raise RuntimeError(
                f"the Prefect server of this command does not answer after {patience_s:.0f} s; give it longer by "
                "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or name another one by PREFECT_API_URL"
            )
        time.sleep(POLL_S)
    _settings.enter_context(temporary_settings({PREFECT_API_URL: _url, PREFECT_API_AUTH_STRING: _password}))


def stop_prefect(*, wait: bool = True) -> None:
    """Ends the server, if this process has one.

    Args:
        wait: until it has ended, and kill it if it does not.
    """
    global _process
    process, _process = _process, None
    if process is None:
        return
    process.terminate()
    if not wait:
        return
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _begin() -> None:
    global _process, _url
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    passwords = {"PREFECT_API_AUTH_STRING": _password, "PREFECT_SERVER_API_AUTH_STRING": _password}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what this thread blocks, its child does
    try:
        _process = subprocess.Popen(command, env={**os.environ, **OURS, **passwords})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _answers() -> bool:
    try:
        return httpx.get(f"{_url}/health", timeout=END_S).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False

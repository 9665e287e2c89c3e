"""What tries the stack's doors: another account of the machine, and a page in a browser."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
PAGE_TIMEOUT_S = 60

only_root_changes_accounts = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)")

SCRIPT = """<!doctype html><title>a page</title><script>
async function main() {
  const told = [];
  for (const [url, options] of REQUESTS) {
    try {
      const answer = await fetch(url, options);
      told.push(`${answer.type} ${answer.status} ${await answer.text()}`);
    } catch (error) { told.push(String(error)); }
  }
  await fetch("/told", {method: "POST", body: JSON.stringify(told)});
}
main();
</script>"""


def as_nobody(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command as an account that has nothing to do with us."""
    return subprocess.run(
        command, input=text, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", env={"PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, errors="replace", timeout=60, check=False,
    )  # fmt: skip


def status_for_nobody(port: int, method: str, path: str, body: Any = None, **headers: str) -> int:
    """Returns the status that a server on the loopback answers to another account (bash speaks to it, no library)."""
    data = "" if body is None else json.dumps(body)
    given = {"host": f"127.0.0.1:{port}", "content-type": "application/json", "content-length": str(len(data))}
    lines = [f"{name}: {value}" for name, value in (given | headers | {"connection": "close"}).items()]
    request = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", data])
    done = as_nobody("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port} && cat >&3 && cat <&3", text=request)
    assert done.stdout.startswith("HTTP/1.1 "), done.stdout + done.stderr
    return int(done.stdout.split()[1])


class Page(BaseHTTPRequestHandler):
    """Serves one page, and notes what comes in."""

    def do_GET(self) -> None:
        self._answer(self.server.page.encode())  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard[self.path] = json.loads(body)  # type: ignore[attr-defined]
        self._answer(b"")
        self.server.told.set() if self.path == "/told" else None  # type: ignore[attr-defined]

    def do_OPTIONS(self) -> None:
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        for name in ("origin", "headers", "methods"):
            self.send_header(f"access-control-allow-{name}", "*")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving() -> Iterator[Any]:
    """Yields a server of one page."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.page, server.heard, server.told = "", {}, threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetched_by_a_page(requests: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Has Chromium show a page of another origin that fetches addresses; returns what it was told, one after the other.

    A last request, to a server that lets everybody in, proves that such a page sends what it is asked to.
    """
    assert BROWSER is not None
    with serving() as site, serving() as open_server, tempfile.TemporaryDirectory() as profile:
        everywhere = f"http://127.0.0.1:{open_server.server_port}/open"
        control = (everywhere, {"method": "POST", "headers": {"content-type": "application/json"}, "body": '{"a": 1}'})
        site.page = SCRIPT.replace("REQUESTS", json.dumps([*requests, control]).replace("</", "<\\/"))
        address = f"http://127.0.0.1:{site.server_port}/"
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}")
        with open(Path(profile) / "log", "wb") as log:
            browser = subprocess.Popen([BROWSER, *options, address], stdout=log, stderr=log)
        try:
            assert site.told.wait(PAGE_TIMEOUT_S), (Path(profile) / "log").read_text(errors="replace")
        finally:
            browser.terminate()
            browser.wait()
        assert open_server.heard == {"/open": {"a": 1}}
        return list(site.heard["/told"][:-1])

"""A model hub's addresses on this machine, as far as its client asks them: repositories, commits, files."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"


class Hub:
    """What is stored, and what was asked.

    Attributes:
        files: each commit's files, by repository and commit.
        heads: the commit of each branch, by repository.
        private: whether a repository is.
        large: files that were uploaded by themselves, by hash.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.heads: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.url = ""

    def commit_of(self, repo: str, revision: str) -> str | None:
        """Returns the commit of a branch, or the commit itself."""
        return self.heads.get(repo, {}).get(revision) or (revision if (repo, revision) in self.files else None)

    def add(self, repo: str, branch: str, changed: dict[str, bytes]) -> str:
        """Commits files on a branch."""
        before = self.commit_of(repo, branch)
        files = {**self.files.get((repo, before or ""), {}), **changed}
        told = json.dumps(
            [repo, branch, before, {name: hashlib.sha1(body).hexdigest() for name, body in files.items()}]
        )
        commit = hashlib.sha1(told.encode()).hexdigest()
        self.files[repo, commit] = files
        self.heads.setdefault(repo, {})[branch] = commit
        return commit


class _Answers(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.private.setdefault(repo, asked.get("visibility") == "private")
            self.hub.heads.setdefault(repo, {})
            self._json({"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/(.+)/branch/(.+)", path):
            repo, branch = found[1], unquote(found[2])
            self.hub.heads[repo].setdefault(branch, self.hub.heads[repo].get("main", ""))
            self._json({})
        elif re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
            files = json.loads(body)["files"]
            modes = {each["path"]: "lfs" if each["path"].endswith(".safetensors") else "regular" for each in files}
            told = [{"path": name, "shouldIgnore": False, "uploadMode": mode} for name, mode in modes.items()]
            self._json({"files": told})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            self._json({"transfer": "basic", "objects": [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}", "header": {}}}}
                for each in objects]})  # fmt: skip
        elif found := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            self._commit(found[1], unquote(found[2]), body)
        else:
            self._json({"error": f"no {path}"}, 404)

    def do_PUT(self) -> None:
        """Takes a large file."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == name
        self.hub.large[name] = body
        self._json({})

    def do_HEAD(self) -> None:
        """As GET."""
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+)|/tree/(.+))", path):
            repo, revision = found[1], found[2] or found[3]
            commit = self.hub.commit_of(repo, revision)
            if commit is None:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                return
            names = sorted(self.hub.files[repo, commit])
            sizes = {name: len(self.hub.files[repo, commit][name]) for name in names}
            tree = [
                {"type": "file", "path": n, "size": sizes[n], "oid": hashlib.sha1(n.encode()).hexdigest()}
                for n in names
            ]
            info = {"id": repo, "modelId": repo, "sha": commit, "siblings": [{"rfilename": name} for name in names]}
            self._json(tree if found[3] else info)
        elif found := re.fullmatch(r"/(.+?/.+?)/resolve/(.+?)/(.+)", path):
            commit = self.hub.commit_of(found[1], found[2])
            body = self.hub.files.get((found[1], commit or ""), {}).get(found[3])
            if body is None:
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                return
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": str(commit)}
            self._send(200, "application/octet-stream", body, headers)
        else:
            self._json({"error": f"no {path}"}, 404)

    def _commit(self, repo: str, branch: str, body: bytes) -> None:
        changed = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changed[value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.add(repo, branch, changed)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps(content).encode(), headers or {})

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Yields a hub that answers at `hub.url`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

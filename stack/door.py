"""The door of the stack's web servers: who may talk to them, decided before a server sees a request.

A server on the loopback is reached by every account of the machine, and by every page that its browser shows. So a
request is let in only if it is addressed to the loopback (a page whose name was made to point here says another host),
comes from no page but the server's own, and, where the server asks nobody itself, brings the password.

uvicorn starts `prefect`, MLflow's command starts `mlflow` (an entry point in pyproject.toml).
"""

import base64
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any

PASSWORD = "CPE_STACK_DOOR"  # the variable that holds "user:password"; MLflow's server alone has it
HOSTS = ("127.0.0.1", "localhost")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Door:
    """An ASGI application before another.

    Args:
        app: what is behind it.
        password: "user:password" that every request must bring (Basic authentication); None leaves that to `app`.
    """

    def __init__(self, app: App, password: str | None = None) -> None:
        self.app = app
        self.expected = None if password is None else b"Basic " + base64.b64encode(password.encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers what is refused, hands everything else on."""
        refused = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, why = refused
            headers = [(b"content-type", b"text/plain"), (b"x-content-type-options", b"nosniff")]
            if status == 401:
                headers.append((b"www-authenticate", b'Basic realm="stack"'))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": why})

    def _refusal(self, scope: Message) -> tuple[int, bytes] | None:
        """Returns status and reason; None lets the request in."""
        given: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name, []).append(value)
        own = own_hosts(scope["server"][1])
        hosts, origins = given.get(b"host", []), given.get(b"origin", [])
        if len(hosts) != 1 or hosts[0] not in own:
            return 403, b"this server is reached as 127.0.0.1 or localhost only, on its own port"
        if any(origin not in {b"http://" + host for host in own} for origin in origins):
            return 403, b"this server answers no pages but its own"
        if self.expected is not None:
            tokens = given.get(b"authorization", [])
            if len(tokens) != 1 or not hmac.compare_digest(tokens[0], self.expected):
                return 401, b"user and password are needed; they are in the stack's file env"
        return None


def own_hosts(port: int) -> set[bytes]:
    """Returns the Host headers of requests to this machine's own port."""
    names = {f"{name}:{port}".encode() for name in HOSTS}
    return names | {name.encode() for name in HOSTS} if port == 80 else names


def prefect() -> Door:
    """Returns Prefect's server behind the door; it asks for the password itself (PREFECT_SERVER_API_AUTH_STRING)."""
    from prefect.server.api.server import create_app

    return Door(create_app(final=True))


def mlflow() -> Door:
    """Returns MLflow's server behind the door and the password."""
    return Door(import_module("mlflow.server.fastapi_app").app, os.environ[PASSWORD])

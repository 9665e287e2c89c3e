"""The door of the page: who is let in, decided before the page sees a request.

Without a token, which goes on the loopback alone, a request must be addressed to the loopback: a page elsewhere may
have had its name made to point here. With one, it must bring that. What the page itself loads comes from here alone.
"""

import asyncio
import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SHORTEST_TOKEN = 8
PAUSE_S = 0.5  # after a wrong token
OWN = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
)
HEADERS = [
    (b"content-security-policy", OWN + b"; frame-ancestors 'none'; form-action 'self'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("192.0.2.7")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None, variable: str = "CPE_UI_TOKEN") -> str | None:
    """Returns the token that visitors must bring, None where everybody on this machine may come in.

    Raises:
        ValueError: other machines reach the page and there is no token, or it is too short.
    """
    token = token or None
    if token is None and not is_loopback(host):
        raise ValueError(
            f"on {host} other machines reach what is served, which draws pictures: set a password by {variable} (or "
            "--token), or leave --host out"
        )
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isprintable()):
        raise ValueError(f"the token must be at least {SHORTEST_TOKEN} printable characters")
    return token


class Door:
    """An ASGI application before the page.

    Args:
        app: the page.
        token: the password of Basic authentication, under any user name; None asks for none.
        hosts: names and addresses by which the page is asked for; None lets any, which only a token makes safe.
    """

    def __init__(self, app: App, token: str | None, hosts: frozenset[str] | None) -> None:
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers what is refused, hands everything else on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is None:
            await self.app(scope, receive, _with_headers(send))
            return
        status, why = refused
        if status == 401:
            await asyncio.sleep(PAUSE_S)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(b"content-type", b"text/plain"), *HEADERS]
        if status == 401:
            headers.append((b"www-authenticate", b'Basic realm="cpe ui", charset="UTF-8"'))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": why})

    def _refusal(self, scope: Message) -> tuple[int, bytes] | None:
        """Returns status and reason; None lets the request in."""
        given: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name, []).append(value)
        hosts, origins = given.get(b"host", []), given.get(b"origin", [])
        if len(hosts) != 1 or (self.hosts is not None and _name_of(b"//" + hosts[0]) not in self.hosts):
            return 403, b"this page is reached by its own name only"
        if any(urlsplit(origin.decode("latin-1")).netloc != hosts[0].decode("latin-1") for origin in origins):
            return 403, b"this page answers no pages but its own"
        if self.token is not None and not self._brings_token(given.get(b"authorization", [])):
            return 401, b"a password is needed: the page's token, under any user name"
        return None

    def _brings_token(self, given: list[bytes]) -> bool:
        kind, _, packed = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if kind.lower() != b"basic":
            return False
        try:
            password = base64.b64decode(packed, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
        return hmac.compare_digest(password, (self.token or "").encode())


def _name_of(address: bytes) -> str:
    try:
        return urlsplit(address.decode("latin-1")).hostname or ""
    except ValueError:
        return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return sending

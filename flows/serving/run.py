"""The server from its parts: a desk that draws, the registry that it follows, uvicorn on one address behind a door."""

import socket
import sys

from flows.page.door import Door
from flows.page.serve import NAMES
from flows.serving.app import Figures, application
from tasks.here.places import Places
from tasks.page.opening import EMBEDDED
from tasks.page.shelf import Shelf
from tasks.serving.desk import Desk
from tasks.serving.following import Following


def open_desk(
    places: Places, reference: str, base_model: str | None, profile: str | None, waiting: int
) -> tuple[Desk, Shelf]:
    """Loads the base model of a registered version.

    Raises:
        RegistryError: there is no such version.
        ValueError: there is no such profile or base model.
    """
    from cpe.terms.names import suggest
    from cpe.terms.profiles import PROFILES

    version = places.registry().resolve(reference)
    base = base_model or version.tags.get("base_model") or EMBEDDED
    name = profile or version.tags.get("profile") or (EMBEDDED if base == EMBEDDED else "cpe")
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}{suggest(name, PROFILES)}")
    shelf = Shelf(places, base_model=base, model=version.name)
    return Desk(places.loaded(base), PROFILES[name], most_waiting=waiting), shelf


def run(
    desk: Desk, shelf: Shelf, reference: str, taken: socket.socket, *, token: str | None, every: float, end_s: int
) -> None:
    """Serves until the process is asked to end: then no more requests are taken, and those that wait are answered.

    Args:
        desk: that draws.
        shelf: of versions.
        reference: that is followed.
        taken: the address.
        token: what clients must bring; None on the loopback alone.
        every: seconds between two looks at the registry.
        end_s: seconds for requests that wait at the end.
    """
    import uvicorn

    host, port = taken.getsockname()[:2]
    figures = Figures(desk)

    def changed(version: str) -> None:
        figures.swaps.inc()
        print(f"serving {version}", file=sys.stderr, flush=True)

    with Following(desk, shelf, reference, every=every, changed=changed) as following:
        app = Door(application(desk, following, figures), token, NAMES if token is None else None)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=end_s)
        taken.listen()
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        uvicorn.Server(config).run(sockets=[taken])

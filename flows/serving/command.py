"""`cpe serve`: a registered version over HTTP."""

import sys
from typing import Annotated

import typer

from flows.terminal.command import places_here

END_S = 30  # for requests that wait when the server is asked to end


def serve(
    reference: Annotated[str, typer.Argument(metavar="MODEL", help="What to serve, such as cpe-emoji@champion.")],
    model: Annotated[
        str | None, typer.Option(help="Base model: embedded, a folder, or a hub name; default: the version's own.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="How pictures are made; default: as the version's list.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; one more is refused (503).")] = 64,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the registry.")] = 10.0,
    token: Annotated[
        str | None,
        typer.Option(envvar="CPE_SERVE_TOKEN", show_envvar=True, help="Password of Basic authentication, any user."),
    ] = None,
) -> None:
    """Serve pictures with concepts erased, and take a newly promoted version on without a restart."""
    from flows.page.door import check_token
    from flows.page.serve import listen
    from flows.serving.run import open_desk, run

    token = check_token(host, token, "CPE_SERVE_TOKEN")
    with listen(host, port) as taken:
        print(f"Serving {reference}: loading the base model ...", file=sys.stderr)
        desk, shelf = open_desk(places_here(), reference, model, profile, waiting)
        with desk:
            run(desk, shelf, reference, taken, token=token, every=every, end_s=END_S)

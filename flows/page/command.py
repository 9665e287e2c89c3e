"""`cpe ui`: a page to try erasing."""

import sys
from typing import Annotated

import typer

from flows.terminal.command import places_here


def ui(
    named: Annotated[
        str | None,
        typer.Argument(
            metavar="[LIST | MODEL]",
            help="A list (its name or path) or a registered model such as cpe-emoji@champion; default: all models.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model: embedded, a folder, or a hub name; default: the versions' own.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="How pictures are made; default: as the list says.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(envvar="CPE_UI_TOKEN", show_envvar=True, help="Password that visitors must give, any user name."),
    ] = None,
) -> None:
    """Open a page to try erasing: before and after, gates, versions, batches, results, promotion."""
    from flows.page.door import check_token
    from flows.page.serve import check_extra, listen, serve

    check_token(host, token)
    with listen(host, port) as taken:
        check_extra()
        print(f"Opening the page: loading {model or 'the base model'} ...", file=sys.stderr)
        from tasks.page.opening import open_bench

        places = places_here()
        opened = open_bench(places, named, model, profile)
        with places.scratch() as scratch:
            serve(
                opened,
                scratch,
                taken,
                token=token,
                ready=lambda url: print(f"page    {url} (Ctrl-C ends it)", flush=True),
            )

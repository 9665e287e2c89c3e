"""`cpe watch`: what the watcher does, and a look at the lists out of turn."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flows.terminal.command import places_here, table


def watch(
    lists: Annotated[
        list[str] | None, typer.Argument(help="Lists: paths, or names in lists/; default: those that are watched.")
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only say what the watcher does and how the lists fare.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status for programs.")] = False,
) -> None:
    """Look at the watched lists now instead of at the next tick, and start work on those that changed.

    Needs a Prefect server (PREFECT_API_URL). Exit code 1 if a list cannot be read; with --status also if one fails.
    """
    if status or as_json:
        show_status(lists, as_json)
    else:
        look_now(lists)


def look_now(lists: list[str] | None) -> None:
    """Does what a tick does."""
    from prefect.client.orchestration import get_client

    from tasks.watch.watcher import require_server, watched_lists

    require_server()
    if not lists:
        with get_client(sync_client=True) as client:
            lists = watched_lists(client)
    from flows.watch_concepts import watch_concepts

    state = watch_concepts(lists, return_state=True)
    if not state.is_completed():
        print(f"cpe: {state.message}")
        raise typer.Exit(1)
    told: Any = state.result()
    print(f"work on {', '.join(told)} is asked for" if told else f"nothing to start for {', '.join(lists)}")


def show_status(lists: list[str] | None, as_json: bool) -> None:
    """Prints what the watcher does and knows."""
    from tasks.watch.watcher import watcher

    found = watcher(places_here(), lists or None)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        print(f"last tick  {found.last_tick or 'none'}  {found.result}")
        print(f"waiting    {found.waiting} tick(s) for a worker")
        table(
            "watched lists",
            ("list", "state", "in vain", "more"),
            [(each.name, each.state, str(each.in_vain), each.detail) for each in found.lists],
        )
    if any(each.is_bad for each in found.lists):
        raise typer.Exit(1)

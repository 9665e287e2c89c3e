"""`cpe status`: whether what is served is what the lists say."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flows.terminal.command import places_here, table


def status(
    lists: Annotated[
        list[str] | None, typer.Argument(help="Lists: paths, or names in lists/; default: all in lists/.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table for programs.")] = False,
) -> None:
    """Say for every list whether its champion is the list as it stands, since when, and why not.

    Exit code 1 if any is not.
    """
    from tasks.watch.standing import standings

    places = places_here()
    names = lists or sorted(path.stem for path in places.lists().glob("*.yaml"))
    found = standings(places, names)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=1))
    else:
        table(
            "lists and what is served",
            ("list", "standing", "champion", "since (UTC)", "why"),
            [
                (
                    each.name,
                    each.state,
                    f"version {each.champion}" if each.champion else "none",
                    (each.since or "")[:16].replace("T", " "),
                    each.why,
                )
                for each in found
            ],
        )
    if any(each.state != "current" for each in found):
        raise typer.Exit(1)

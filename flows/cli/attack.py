"""`cpe attack`: how often attacks bring a list's erased concepts back."""

import json
import sys
from typing import Annotated

import typer

from flows.cli.plan import ListArgument, ProfileOption
from flows.terminal.command import places_here, table
from flows.terminal.server import await_prefect, start_prefect
from wording.figures import number


def attack(
    name: ListArgument,
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="Only this one, such as inversion; may be given several times."),
    ] = None,
    profile: ProfileOption = None,
    steps: Annotated[int | None, typer.Option(help="Of each search, if not as the list says.")] = None,
    starts: Annotated[int | None, typer.Option(help="Searches for each concept, likewise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures for programs.")] = False,
) -> None:
    """Attack a list's gates: by other words, and by texts that are learned to bring erased concepts back.

    Without --attack, the list's own attacks, or all there are. What was searched, drawn and measured is not made again.
    """
    from cpe.lists.reading import load_list
    from tasks.attacks.figures import chosen_attacks
    from tasks.prepare import check_list, find_list

    places = places_here()
    base_model = check_list(places, name, profile).base_model
    chosen_attacks(load_list(find_list(places, name)), attacks, steps=steps, starts=starts)
    print(f"Attacking {name}: starting Prefect, loading {base_model} ...", file=sys.stderr)
    start_prefect()
    from flows.attack import attack as attack_list

    places.loaded(base_model)
    await_prefect()
    found = attack_list(name, attacks or None, profile, steps=steps, starts=starts)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    rows = [
        (
            name,
            each["access"],
            number(each["rate"], "share"),
            "" if each["low"] is None else f"{number(each['low'], 'share')} to {number(each['high'], 'share')}",
            number(each["control"], "share"),
            "" if each["controls"]["kept"] is None else number(each["controls"]["kept"]["rate"], "share"),
            str(each["count"]),
        )
        for name, each in found["attacks"].items()
    ]
    columns = ("attack", "needs", "success", "95 % interval", "untouched model", "kept ones", "pictures")
    table(f"{found['list']} by {found['method']}, profile {found['profile']}", columns, rows)

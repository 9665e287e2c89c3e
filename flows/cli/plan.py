"""`cpe plan` and `cpe doctor`: what a list will cost, and what is here to run it with."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from flows.terminal.command import places_here, table

ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", help="How pictures are made, if not as the list says."),
]
ListArgument = Annotated[
    str, typer.Argument(metavar="LIST", help="A concept list: a path, or a name in lists/ such as emoji.")
]


def plan(
    name: ListArgument,
    profile: ProfileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures for programs.")] = False,
) -> None:
    """Say what a list will cost before anything runs, from rates measured on this device."""
    from tasks.desk.cost import as_rows, estimate, measure_rates
    from tasks.desk.limits import check_costs
    from tasks.prepare import prepare_concepts

    places = places_here()
    prepared = prepare_concepts(places, name, profile)
    print("measuring rates on this device ...", file=sys.stderr)
    rates = measure_rates(prepared, places)
    costs = estimate(prepared, rates, places)
    if as_json:
        print(json.dumps({"costs": [asdict(cost) for cost in costs], "rates": asdict(rates)}, indent=1))
        check_costs(prepared, costs)
        return
    table(
        f"{prepared.concepts.name} on {prepared.concepts.base_model}, profile {prepared.profile.name}, on "
        f"{places.device_name()}",
        ("work", "in all", "to do", "disk", "time"),
        list(as_rows(costs)),
    )
    for note in prepared.notes:
        print(f"note    {note}")
    check_costs(prepared, costs)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings for programs.")] = False) -> None:
    """Say in seconds what is here (device, models, detectors, stores, servers) and what each list would still need."""
    from tasks.desk.doctor import examine, examine_lists

    places = places_here()
    here, lists = examine(places), examine_lists(places)
    if as_json:
        found = {"here": [asdict(each) for each in here], "lists": [asdict(each) for each in lists]}
        print(json.dumps(found, indent=1))
        return
    table("here", ("", "", ""), [(each.name, "yes" if each.there else "no", each.found) for each in here])
    table(
        f"lists in {places.lists_url}",
        ("list", "can run now", "still needs"),
        [(each.name, "yes" if each.there else "no", each.found) for each in lists],
    )

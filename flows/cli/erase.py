"""`cpe erase` and `cpe demo`: the whole chain of one list, from its gates to a registered version."""

import sys

from flows.cli.plan import ListArgument, ProfileOption
from flows.cli.results import show_results
from flows.terminal.command import places_here
from flows.terminal.server import await_prefect, start_prefect

DEMO = "emoji"


def erase(name: ListArgument, profile: ProfileOption = None) -> None:
    """Erase a list: train the gates it lacks, draw, measure, report, register and promote if its bars hold.

    Everything is addressed by content: a second run trains and draws only what is new.
    """
    from cpe.lists.reading import load_only_list
    from tasks.prepare import check_list, find_list

    places = places_here()
    base_model = load_only_list(find_list(places, name)).base_model
    print(f"Erasing {name}: starting Prefect, loading {base_model} ...", file=sys.stderr)
    start_prefect()
    check_list(places, name, profile)
    from flows.erase_and_evaluate import erase_and_evaluate

    places.loaded(base_model)
    await_prefect()
    show_results(erase_and_evaluate(name, profile))


def demo() -> None:
    """Erase ten nouns from the small model that is shipped: needs no file, no GPU, no model hub."""
    from tasks.here.places import SHIPPED_LISTS

    erase(str(SHIPPED_LISTS / f"{DEMO}.yaml"))

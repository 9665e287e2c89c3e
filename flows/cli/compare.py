"""`cpe compare`: every way of erasing on one list, the same prompts and seeds, as one page and one table."""

import json
import sys
from typing import Annotated, Any

import typer

from cpe.lists.comparison import TRAINING_SEEDS
from cpe.methods.table import METHODS
from flows.cli.plan import ListArgument, ProfileOption
from flows.terminal.command import places_here, table
from flows.terminal.server import await_prefect, start_prefect
from wording.figures import MISSING, duration, number


def compare(
    name: ListArgument,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help=f"Only this way of erasing, of {', '.join(METHODS)}; may be given several times."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", help="Training seeds of each method that draws anything at random; default: 3."),
    ] = None,
    erased: Annotated[
        list[int] | None,
        typer.Option(
            "--erase",
            help="Erase only so many of the list's targets, the first ones; several times: each number.",
        ),
    ] = None,
    profile: ProfileOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Of the pool, to share the work with.")] = 1,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print for programs: the latest comparison of the list as it is now (with what methods, "
            "seeds and profile are given), run only if there is none.",
        ),
    ] = False,
) -> None:
    """Erase a list in every way there is and measure all on the same pictures: one page, one Parquet table.

    Nothing is registered or promoted, and what is stored already is not made again.
    """
    from tasks.comparison.ways import check_comparison, stored_comparison
    from tasks.comparison.write import read_comparison

    wanted = TRAINING_SEEDS if seeds is None else seeds
    places = places_here()
    check_comparison(places, name, methods, wanted, profile, erased)
    stored = stored_comparison(places, name, methods, seeds, profile, erased) if as_json else None
    if stored is not None:
        print(json.dumps(read_comparison(places, stored), indent=1))
        return
    print(f"Comparing on {name}: starting Prefect ...", file=sys.stderr)
    start_prefect()
    from flows.compare import compare as run

    await_prefect()
    found = run(name, methods, wanted, profile, workers, erased)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show_comparison(found)


def show_comparison(found: dict[str, Any]) -> None:
    """Prints a comparison's rows, and where its page and table are."""
    attacks = list(dict.fromkeys(name for row in found["rows"] for name in row["attacks"]))
    table(
        f"{found['list']} on {found['base_model']}, profile {found['profile']}: what is recognised after erasing",
        ("method", "seed", "concepts", "erased", "kept", "H0", *attacks, "training"),
        [
            (
                row["method"],
                "any" if row["seed"] is None else str(row["seed"]),
                str(row["targets"]),
                *(number(row[name]) for name in ("erased", "kept", "h0")),
                *(_rate(row["attacks"][name]) for name in attacks),
                MISSING if row["seconds"] is None else duration(row["seconds"]),
            )
            for row in found["rows"]
        ],
    )
    print(f"page    {found['page']}")
    print(f"table   {found['table']}")


def _rate(measure: dict[str, Any] | None) -> str:
    return MISSING if measure is None else number(measure["rate"])

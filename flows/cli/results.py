"""The latest run's figures, as the command line shows them."""

import json
from typing import Annotated, Any

import typer

from flows.terminal.command import places_here, table
from wording.figures import duration, number


def results(
    concepts: Annotated[str | None, typer.Argument(help="Only of this list, such as emoji.")] = None,
    name: Annotated[str | None, typer.Option("--list", help="Likewise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures for programs.")] = False,
) -> None:
    """Print the latest run's figures.

    H0 is the harmonic mean of 1 - accuracy on erased and accuracy on kept concepts: 100 % erases all and keeps all.
    """
    from tasks.register import latest_results

    name = concepts.rpartition("/")[2].removesuffix(".yaml") if concepts else name
    latest = latest_results(places_here(), name)
    if as_json:
        print(json.dumps(latest, indent=1))
    else:
        show_results(latest)


def show_results(results: dict[str, Any]) -> None:
    """Prints a run's table of results, its report and its registered model."""
    gates = results["gates"]
    total = gates["trained"] + gates["reused"]
    what = "gates" if results.get("method", "cpe") == "cpe" else "concepts"
    if gates["trained"]:
        print(f"\nTrained {gates['trained']} of {total} {what}, {gates['reused']} were in the store already.")
    else:
        print(f"\nTrained nothing: all {total} {what} were in the store already.")
    rows = [
        (
            figure["label"],
            number(figure["before"], figure["unit"]),
            number(figure["after"], figure["unit"]),
            str(figure["count"]),
        )
        for figure in results["figures"]
    ]
    table(
        f"{results['list']} on {results['base_model']}, profile {results['profile']}",
        ("", "before", "after", "pictures"),
        rows,
    )
    from tasks.figures import H0

    if any(figure["label"] == "H0" for figure in results["figures"]):
        print(f"note    {H0}")
    spent = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in results["seconds"].items())
    print(f"time    {spent}")
    for hole in results["holes"]:
        print(f"hole    {hole}")
    if results["published"]:
        table(
            "published figures, for comparison",
            ("source", "profile", "figure", "value"),
            [
                (
                    each["source"],
                    _profile(each["profile"], results["profile"]),
                    *pair,
                )
                for each in results["published"]
                for pair in each["figures"].items()
            ],
        )
    for bar in results["bars"]:
        verdict = "holds" if bar["holds"] else "MISSED"
        note = f" ({bar['note']})" if bar.get("note") else ""
        print(
            f"bar     {verdict:<7} {bar['name']} {bar['bound']}: {number(bar['value'], bar.get('unit', 'share'))}{note}"
        )
    print(f"report  {results['report']}")
    if results["champion"]:
        standing = "champion"
    elif results["fell_short"]:
        standing = f"not promoted: {'; '.join(results['fell_short'])}"
    else:
        standing = "not champion: another version has been chosen since"
    print(f"model   {results['model']} version {results['version']} ({standing})")


def _profile(profile: str, own: str) -> str:
    """Returns a profile's name, marked if it is not the one of the figures beside it."""
    return profile if profile == own else f"{profile} (not as measured here)"

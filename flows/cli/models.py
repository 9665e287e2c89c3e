"""`cpe models`: look bundles up in the registry, compare them, promote and roll back."""

from pathlib import Path
from typing import Annotated

import typer

from flows.terminal.command import command_of, places_here, table
from wording.figures import number
from wording.foreign import told

models = typer.Typer(help="List registered bundles; show, compare, promote and roll back.", invoke_without_command=True)
command = command_of(models)

SHOWN = 6  # of a version's erased concepts; `show` has them all

Reference = Annotated[str, typer.Argument(help="cpe-emoji, cpe-emoji@champion, cpe-emoji/3 or models:/...")]
Reason = Annotated[str, typer.Option(help="Why, for people; kept in the registry.")]


@models.callback()
def _list_when_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        all_of_them()


@command_of(models, name="list")
def all_of_them() -> None:
    """List all registered bundles."""
    from tasks.figures import H0

    places = places_here()
    found = places.registry().models()
    if not found:
        from tasks.desk.versions import unnamed_bundles

        lost = unnamed_bundles(places, found)
        print(lost or "no models registered yet; run `cpe erase emoji` first")
        return
    facts, figures = ("profile", "bundle"), ("erased_accuracy", "kept_accuracy", "h0")
    profiles = {each.tags.get("profile") for each in found}
    table(
        "registered models" + (" (of different profiles: compare only within one)" if len(profiles) > 1 else ""),
        ("model", "version", "standing", "erased", *(name.replace("_", " ") for name in (*facts, *figures)), "created"),
        [
            (
                each.name,
                str(each.version),
                ", ".join((*each.aliases, *(["rolled back"] if each.is_rolled_back else []))),
                _shortened(each.tags.get("erased", "")),
                *(each.tags.get(name, "") for name in facts),
                *(_share(each.tags.get(name, "")) for name in figures),
                f"{each.created_at:%Y-%m-%d %H:%M}",
            )
            for each in found
        ],
    )
    print(H0)
    for each in found:
        if each.is_rolled_back:
            reason = each.tags.get("rolled_back_reason", "no reason given")
            print(f"held    the gates of {each.name} version {each.version}, rolled back: {told(reason)}")


def _share(tag: str) -> str:
    """Returns a share as a version's tags hold it, or what they say in its place."""
    return number(float(tag)) if tag[:1].isdigit() else tag


def _shortened(names: str) -> str:
    """Returns the first of some names, and how many more there are."""
    first = names.split(", ")
    return names if len(first) <= SHOWN else f"{', '.join(first[:SHOWN])} ... ({len(first)})"


@command
def show(
    reference: Reference,
    fetch: Annotated[Path | None, typer.Option(help="Also download its gates into this folder.")] = None,
) -> None:
    """Show one bundle, and perhaps fetch it."""
    registry = places_here().registry()
    model = registry.resolve(reference)
    rows = [("name", model.name), ("version", str(model.version)), ("aliases", ", ".join(model.aliases) or "none")]
    rows += [("created", f"{model.created_at:%Y-%m-%d %H:%M} UTC"), ("run", model.run_id), *sorted(model.tags.items())]
    there = registry.has_files(model.name, model.version)
    rows.append(("files", "there" if there else "gone: run `cpe erase` with its list again, which registers it anew"))
    if fetch is not None:
        rows.append(("fetched to", str(registry.fetch(reference, fetch))))
    table(f"models:/{model.name}/{model.version}", ("", ""), rows)


@command
def promote(reference: Reference, reason: Reason) -> None:
    """Make a version champion by hand; the champion becomes `previous`.

    If the champion was what its list says, its gates are held back from now on, as by a rollback.
    """
    from tasks.desk.versions import promote_by_hand

    name, version, before = promote_by_hand(places_here(), reference, reason)
    print(f"{name} version {version} is champion" + (f", version {before} is previous" if before else ""))


@command
def rollback(
    name: Annotated[str, typer.Argument(help="A registered model, such as cpe-emoji.")], reason: Reason
) -> None:
    """Make the previous champion champion again, and hold the gates of the one that was back.

    Whatever else is edited in the list, they stay held back until `cpe models lift` or a promotion by hand.
    """
    from tasks.desk.versions import roll_back

    version, left = roll_back(places_here(), name, reason)
    print(f"{name} version {version} is champion again, version {left} is previous")
    print(f"the gates of version {left} are held back from now on; `cpe models lift {name}` lifts that")


@command
def lift(name: Annotated[str, typer.Argument(help="A registered model, such as cpe-emoji.")], reason: Reason) -> None:
    """Let gates that were rolled back be promoted again: the next run of their list judges them anew."""
    from tasks.desk.versions import lift

    versions = ", ".join(str(each) for each in lift(places_here(), name, reason))
    print(f"{name}: version {versions} is held back no longer")


@command
def diff(
    one: Reference,
    other: Annotated[str, typer.Argument(help="What it is compared with, likewise.")],
) -> None:
    """Compare two versions: who made them, gates added, removed and retrained, metrics side by side."""
    from tasks.desk.versions import compare

    found = compare(places_here(), one, other)
    columns = ("", *(f"{each.name}/{each.version}" for each in found.versions))
    table("versions", columns, [(name, *values) for name, values in found.facts.items()])
    table(
        "gates, from the first to the second",
        ("", "concepts"),
        [(kind, ", ".join(names) or "none") for kind, names in found.gates.items()],
    )
    note = "" if found.same_profile else " (of different profiles: not comparable)"
    table(
        f"metrics{note}",
        columns,
        [(name, *(number(value, unit) for value in values)) for name, unit, values in found.metrics],
    )

"""`cpe store`: look whether what the artifact store holds is whole, and move away what is not."""

from typing import Annotated

import typer

from flows.terminal.command import command_of, places_here, table

store = typer.Typer(no_args_is_help=True, help="Verify the artifact store; move damaged artifacts away.")
command = command_of(store)

Prefix = Annotated[str, typer.Argument(help="Only below this prefix: gates, pictures, observations, scores, ...")]


@command
def verify(prefix: Prefix = "") -> None:
    """Read everything in the store and list what is damaged; exit code 1 if anything is."""
    if _damaged(prefix):
        print(
            "`cpe store repair` moves these away, and the next `cpe erase` of a list that needs them makes them again"
        )
        raise typer.Exit(1)


@command
def repair(
    prefix: Prefix = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it only says what it would do.")] = False,
) -> None:
    """Move damaged artifacts away, so that the next run makes them again."""
    damaged = _damaged(prefix)
    if not damaged:
        return
    if not yes:
        print("nothing was changed; `cpe store repair --yes` moves these away")
        return
    opened = places_here().store()
    for key in damaged:
        print(f"moved   {key} to {opened.set_aside(key)}")
    print("run `cpe erase` with the lists that need them: it makes them again, and nothing else")


def _damaged(prefix: str) -> list[str]:
    """Prints what is damaged and returns its keys."""
    opened = places_here().store()
    found = list(opened.damaged(prefix))
    if found:
        table(f"damaged in {opened.url}", ("artifact", "what is wrong"), found)
    else:
        print(f"all {len(opened.keys(prefix)):,} artifacts in {opened.url} are whole")
    return [key for key, _ in found]

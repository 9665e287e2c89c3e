"""What the commands of the command line share: errors in one message, tables, numbers."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import httpx
import typer
from safetensors import SafetensorError

from flows.terminal.interrupt import EXIT_CODE, interruptible
from wording.foreign import printable

if TYPE_CHECKING:
    from tasks.here.places import Places

BAD_INPUT = (ValueError, OSError, LookupError, RuntimeError, ImportError, SafetensorError, httpx.HTTPError)


def places_here() -> "Places":
    """Returns the places that the environment names; nothing else of the command line reads it."""
    from tasks.here.places import Places

    return Places.from_environment()


def command_of(
    app: typer.Typer, *, resumes: bool = False, **options: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers commands whose errors end in one message and exit code 2, and Ctrl-C in one and 130.

    Args:
        app: that the commands belong to.
        resumes: whether a command that was interrupted goes on where it was when it is given again.
        options: of typer.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def wrapped(*arguments: Any, **given: Any) -> None:
            with interruptible(resumes=resumes) as interrupt:
                try:
                    function(*arguments, **given)
                except typer.Exit:  # which is a RuntimeError
                    raise
                except KeyboardInterrupt:
                    interrupt.tell()
                    raise typer.Exit(EXIT_CODE) from None
                except BAD_INPUT as error:
                    if os.environ.get("CPE_DEBUG"):
                        raise
                    if interrupt.seen:  # an error that the interrupt led to
                        interrupt.tell()
                        raise typer.Exit(EXIT_CODE) from None
                    print(f"cpe: {_message(error)}", file=sys.stderr)
                    raise typer.Exit(2) from None

        app.command(**options)(wrapped)
        return wrapped

    return register


def _message(error: Exception) -> str:
    server = os.environ.get("PREFECT_API_URL")
    if server and isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
        return f"the Prefect server at {server} refuses this user; set PREFECT_API_AUTH_STRING (`. work/stack/env`)"
    if server and (isinstance(error, httpx.HTTPError) or "Failed to reach API" in str(error)):
        return f"the Prefect server at {server} does not answer; start it, or unset PREFECT_API_URL to do without"
    return printable(str(error.args[0] if isinstance(error, KeyError) else error))


def table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Prints a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    printed = Table(title=Text(title), title_justify="left", header_style="bold")
    for column in columns:
        printed.add_column(column, overflow="fold")
    for row in rows:
        printed.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 140).print(printed)

"""`cpe push` and `cpe pull`: registered versions on a model hub."""

from pathlib import Path
from typing import Annotated

import typer

from flows.terminal.command import places_here

RepoArgument = Annotated[str, typer.Argument(metavar="REPO", help="owner/name.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch (to pull also a tag or commit).")]


def push(
    reference: Annotated[
        str, typer.Argument(metavar="MODEL", help="A registered version, such as cpe-emoji@champion.")
    ],
    repo: RepoArgument,
    public: Annotated[bool, typer.Option("--public", help="Whoever likes may read it; else it is private.")] = False,
    revision: RevisionOption = None,
) -> None:
    """Push a registered version to a model hub, with a card of its figures; HF_TOKEN says who you are."""
    from tasks.desk.hub import push_version

    print(push_version(places_here(), reference, repo, private=not public, revision=revision))


def pull(
    repo: RepoArgument,
    folder: Annotated[Path, typer.Option(help="Where its folder is made.")] = Path(),
    revision: RevisionOption = None,
) -> None:
    """Bring gates from a model hub into a folder, verified; `--gates` takes it."""
    from tasks.desk.hub import pull_folder

    found = pull_folder(repo, folder, revision)
    print(f"{found}; next: cpe generate 'a prompt' --gates {found}")

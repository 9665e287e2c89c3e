"""`cpe init` and `cpe lists new`: the shipped lists to edit, and one's own, checked before it is written."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.terminal.command import command_of, places_here

if TYPE_CHECKING:
    from cpe.lists.schema import ConceptList
    from tasks.here.places import Places

lists = typer.Typer(no_args_is_help=True, help="Concept lists.")
KINDS = {  # what is erased, on which base model: the shipped list that a new one is made from
    "noun": "emoji",
    "style": "emoji-styles",
    "celebrity": "celebs",
    "artist": "artists",
    "explicit": "explicit",
}
NEAR = 3  # neighbours suggested for each target


def init(
    folder: Annotated[Path, typer.Argument(help="Where `lists` is made.")] = Path(),
) -> None:
    """Copy the lists that are shipped into FOLDER/lists, to edit; what is there already stays as it is."""
    from tasks.here.places import SHIPPED_LISTS

    target = folder / "lists"
    new: list[Path] = []
    there: list[Path] = []
    for path in sorted(SHIPPED_LISTS.rglob("*.yaml")):
        copy = target / path.relative_to(SHIPPED_LISTS)
        (there if copy.exists() else new).append(copy)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    left = f", {len(there)} were there and stay as they are" if there else ""
    print(f"{len(new)} lists and sets copied into {target}{left}")
    if new:
        print("next    edit one, then `cpe plan LIST` says what it costs and `cpe erase LIST` erases it")


@command_of(lists)
def new(
    name: Annotated[str, typer.Argument(help="Of the list; its file is FOLDER/NAME.yaml.")],
    kind: Annotated[
        str | None,
        typer.Option(help="noun, style (embedded model); celebrity, artist, explicit (Stable Diffusion)."),
    ] = None,
    erase: Annotated[list[str] | None, typer.Option("--erase", help="What to erase; several times.")] = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", help="What must survive; several times.")] = None,
    model: Annotated[str | None, typer.Option(help="Base model, if not the one of that kind.")] = None,
    folder: Annotated[Path, typer.Option(help="Where it is written.")] = Path("lists"),
) -> None:
    """Write a list: asks what is not given, checks every name, says what it will cost."""
    from artifacts.disk import write_whole
    from cpe.lists.drafting import draft
    from cpe.lists.reading import parse_list
    from tasks.here.places import SHIPPED_LISTS

    path = folder / f"{name}.yaml"
    if path.exists():
        raise ValueError(f"{path} is there already; edit it, or give another name")
    kind = kind or typer.prompt(f"What kind of thing is erased ({', '.join(KINDS)})", default="noun")
    if kind not in KINDS:
        raise ValueError(f"no kind {kind!r}; there are {', '.join(KINDS)}")
    text = (SHIPPED_LISTS / f"{KINDS[kind]}.yaml").read_text(encoding="utf-8")
    shipped = parse_list(text)
    targets = erase or _names(typer.prompt("Erase (names, with commas between)"))
    kept = keep
    if kept is None:
        near = _neighbours(shipped, targets)
        kept = _names(typer.prompt("Keep, and watch (names, with commas between)", default=", ".join(near)))
    text = draft(text, name=name, targets=targets, kept=kept)
    if model:
        text = text.replace(f"base_model: {shipped.base_model}\n", f"base_model: {model}\n")
    parse_list(text)
    places = places_here()
    with places.scratch() as scratch:
        checked = scratch / path.name
        checked.write_text(text, encoding="utf-8")
        _check(places, checked)
    write_whole(path, text.encode())
    print(f"written {path}: {len(targets)} to erase, {len(kept)} to keep")
    print(f"next    cpe erase {path if folder != Path('lists') else name}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _neighbours(shipped: "ConceptList", targets: list[str]) -> list[str]:
    """Returns what lies nearest to the targets among what can be recognised: what the shipped list names."""
    from cpe.terms.names import normalise
    from cpe.words.neighbors import UnknownWordError, WordVectors

    gone = {normalise(name) for name in targets}
    known = dict.fromkeys([*shipped.kept, *(target.name for target in shipped.targets), *shipped.anchors.pool])
    names = [name for name in known if normalise(name) not in gone]
    vectors, near = WordVectors.load(None), dict[str, None]()
    for target in targets:
        try:
            near |= dict.fromkeys(vectors.rank(target, names).names[:NEAR])
        except UnknownWordError:
            continue
    return list(near) or names[: 2 * NEAR]


def _check(places: "Places", path: Path) -> None:
    """Checks the list with its names and files, and says what it will cost where its base model is here.

    Raises:
        ValueError: something in it is wrong.
    """
    from tasks.desk.doctor import examine_list
    from tasks.prepare import check_list

    check_list(places, str(path))
    needs = examine_list(places, path)
    if not needs.there:
        print(f"note    before it can run it needs {needs.found}")
        return
    print("measuring what it costs on this device ...", file=sys.stderr)
    from flows.cli.plan import plan

    plan(str(path))

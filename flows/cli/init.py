"""`cpe init`: the lists that are shipped, in a folder to edit."""

import shutil
from pathlib import Path
from typing import Annotated

import typer


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

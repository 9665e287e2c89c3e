"""The house stays one in which things are found: small files, small folders."""

from pathlib import Path

import pytest

from helpers.places import PROJECT

PACKAGES = ("cpe", "artifacts", "tasks", "flows", "stack", "benchmarks", "wording")
MOST_LINES, MOST_FILES = 250, 14


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_there_and_imported_by_its_name(package: str) -> None:
    assert (PROJECT / package / "__init__.py").is_file()


def test_no_file_is_long() -> None:
    long = {str(path.relative_to(PROJECT)): count for path in files() if (count := _lines(path)) > MOST_LINES}
    assert long == {}


def test_no_folder_is_full() -> None:
    folders = {path.parent for path in files()}
    full = {
        str(folder.relative_to(PROJECT)): count
        for folder in folders
        if (count := sum(path.name != "__init__.py" for path in folder.glob("*.py"))) > MOST_FILES
    }
    assert full == {}


def test_every_room_is_in_the_table() -> None:
    page = (PROJECT / "docs" / "architecture.md").read_text()
    rooms = {path.parent.relative_to(PROJECT).as_posix() for path in files()}
    told = {room for room in rooms if f"`{room}`" in page}
    assert rooms - told - set(PACKAGES) - {"cpe/embedded/making"} == set()


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())

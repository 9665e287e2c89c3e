"""Examples in docstrings give what they say, and every public name has one."""

import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cpe
from helpers.earlier import unpack_earlier
from helpers.places import PROJECT

PACKAGES = ("cpe", "artifacts", "tasks", "flows", "wording")


def modules() -> list[str]:
    files = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
    return [_name(path) for path in files if ">>> " in path.read_text()]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts)


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The project's folder, with a work folder in which the version cpe-few/1 is registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        patch.setenv("CPE_WORK", str(unpack_earlier(tmp_path_factory.mktemp("earlier"))))
        for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield


@pytest.mark.parametrize("name", modules())
def test_examples_are_true(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", [each for each in cpe.__all__ if each != "__version__"])
def test_every_public_name_has_an_example(name: str) -> None:
    where = getattr(cpe, name)
    told = importlib.import_module(cpe._PUBLIC[name]) if name == "PRESETS" else where
    assert "Example:\n" in (told.__doc__ or "")

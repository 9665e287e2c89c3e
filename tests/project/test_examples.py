"""Examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

from helpers.places import PROJECT

PACKAGES = ("cpe", "artifacts", "tasks", "flows", "wording")


def modules() -> list[str]:
    files = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
    return [_name(path) for path in files if ">>> " in path.read_text()]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts)


@pytest.mark.parametrize("name", modules())
def test_examples_are_true(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0

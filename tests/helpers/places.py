"""Where things of the project are."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
LISTS = PROJECT / "lists"
TESTS = PROJECT / "tests"
HELPERS = TESTS / "helpers"
SHARED = PROJECT.parent / "shared"  # data that are not the project's own; what needs them is skipped without

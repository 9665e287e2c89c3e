"""Tasks are plain functions that are told where things are; what people and deployments see of them stays."""

import ast
import inspect
from pathlib import Path

import pytest
from prefect import Task

from helpers.places import PROJECT
from tasks import steps
from tasks.here.places import Places

TASKS = {name: found for name, found in vars(steps).items() if isinstance(found, Task)}
NAMES = {  # as they are in the UI, and in the records of earlier runs
    "prepare_concepts", "check_limits", "store_plan", "load_plan", "plan_training", "encode_concepts", "train_gates",
    "assemble_bundle", "attacked", "search_texts", "attack_figures", "draw_pictures", "look_at_pictures", "measure",
    "register_bundle", "decide", "write_report", "save_results", "choose_ways", "write_comparison", "changed_lists",
    "clean_store",
}  # fmt: skip


def test_tasks_have_the_names_and_parameters_that_they_had() -> None:
    assert {found.name for found in TASKS.values()} == TASKS.keys() == NAMES
    for found in TASKS.values():
        assert "places" not in inspect.signature(found).parameters, found.name
    assert list(inspect.signature(steps.draw_pictures).parameters) == ["plan", "bundle", "part", "parts"]


def test_a_task_is_told_the_places_of_the_moment_at_which_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def where(places: Places, name: str, *, deep: bool = False) -> tuple[Path, str, bool]:
        return places.work, name, deep

    told = steps.with_places(where)
    for folder in ("one", "other"):
        monkeypatch.setenv("CPE_WORK", str(tmp_path / folder))
        assert told("a", deep=True) == (tmp_path / folder, "a", True)


def test_the_environment_is_read_once_for_tasks_and_once_for_commands() -> None:
    found = [
        path.relative_to(PROJECT).as_posix()
        for folder in ("tasks", "flows")
        for path in sorted((PROJECT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "from_environment"
    ]
    assert found == ["tasks/steps.py", "flows/terminal/command.py"]


def test_nothing_reaches_behind_a_task() -> None:
    folders = ("tasks", "flows", "scripts", "benchmarks", "tests")
    files = [path for folder in folders for path in (PROJECT / folder).rglob("*.py") if path != Path(__file__)]
    reaching = [
        path.relative_to(PROJECT).as_posix()
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fn"
    ]
    assert reaching == []

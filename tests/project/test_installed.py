"""The wheel: what is in it, and that it works away from the project, with the lists that are shipped or with others."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.app import app
from helpers.lists import LITTLE
from tasks.here.places import SHIPPED_LISTS, Places

PROJECT = Path(__file__).parents[2]
SHIPPED = sorted(path.stem for path in SHIPPED_LISTS.glob("*.yaml"))
PARTS = ["cpe", "artifacts", "tasks", "flows", "stack", "benchmarks", "wording", "lists"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds it in a copy, as building writes beside the sources."""
    copy, out = tmp_path_factory.mktemp("project") / "copy", tmp_path_factory.mktemp("wheel")
    copy.mkdir()
    for name in [*PARTS, "pyproject.toml", "README.md", "LICENSE"]:
        one = PROJECT / name
        (shutil.copytree if one.is_dir() else shutil.copyfile)(one, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, copy]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(copy)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_lists_and_weights_and_nothing_that_only_development_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"lists/{name}.yaml" for name in SHIPPED} <= names
    assert "lists/sets/coco.yaml" in names
    assert "cpe/embedded/weights/unet/diffusion_pytorch_model.safetensors" in names
    assert "artifacts/report/templates/curves.svg.j2" in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "docs/")) or "/making/parts/" in name]


@pytest.mark.slow
def test_an_installed_wheel_finds_its_lists_from_any_folder(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CPE_")}

    def cpe(*given):
        command = [sys.executable, "-c", "from flows.cli.app import run; run()", *given]
        return subprocess.run(
            command, cwd=here, env=kept | {"PYTHONPATH": str(site)}, capture_output=True, text=True, check=False
        )

    doctor = cpe("doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert f"lists in {site / 'lists'}"[:60] in doctor.stdout.replace("\n", "")
    assert "nothing: everything is here" in doctor.stdout
    assert cpe("init").returncode == 0
    assert sorted(path.stem for path in (here / "lists").glob("*.yaml")) == SHIPPED


def test_where_a_folder_has_lists_of_its_own_those_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CPE_LISTS", raising=False)
    assert Places.from_environment().lists() == SHIPPED_LISTS
    (tmp_path / "lists").mkdir()
    assert Places.from_environment().lists() == SHIPPED_LISTS, "there is none in it"
    (tmp_path / "lists" / "little.yaml").write_text(yaml.safe_dump(LITTLE))
    assert Places.from_environment().lists() == Path("lists")
    shown = CliRunner().invoke(app, ["plan", "emoji"])
    assert shown.exit_code == 2
    assert "there is no such concept list; there are little.yaml" in shown.stderr
    assert "`cpe init`" in shown.stderr


def test_init_copies_what_is_shipped_and_leaves_what_was_edited(tmp_path):
    first = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert first.exit_code == 0, first.output
    copies = {path.relative_to(tmp_path / "lists") for path in (tmp_path / "lists").rglob("*.yaml")}
    assert copies == {path.relative_to(SHIPPED_LISTS) for path in SHIPPED_LISTS.rglob("*.yaml")}
    edited = tmp_path / "lists" / "emoji.yaml"
    edited.write_text("mine")
    (tmp_path / "lists" / "celebs.yaml").unlink()
    again = CliRunner().invoke(app, ["init", str(tmp_path)])
    told = again.output.replace("\n", "")
    assert "1 lists and sets copied" in told
    assert f"{len(copies) - 1} were there and stay" in told
    assert edited.read_text() == "mine"


def test_demo_erases_the_shipped_list_whatever_lists_are_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("flows.cli.erase.erase", lambda name: asked.append(name))
    assert CliRunner().invoke(app, ["demo"]).exit_code == 0
    assert asked == [str(SHIPPED_LISTS / "emoji.yaml")]

"""Damage in the store: what can be made again is made again, and `cpe store` finds and moves away the rest."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from artifacts.disk import StoreError, write_whole
from flows.cli.app import app
from helpers.faults import LIST, artifacts_in, copied_database, latest, made, registered
from helpers.faults_servers import shared
from tasks.here.places import Places
from tasks.register import latest_results

RUNNER = CliRunner()
MADE_AGAIN = ("gates", "bundles", "observations", "scores", "plans", "pictures")


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return shared(tmp_path_factory).runner


@pytest.fixture(scope="module")
def finished(tmp_path_factory, runner):
    """A work folder with one finished run in it, and that run's gates."""
    work = tmp_path_factory.mktemp("finished") / "work"
    copied_database(shared(tmp_path_factory).database, work)
    (work / "few.yaml").write_text(yaml.safe_dump(LIST))
    runner.run("erase", str(work / "few.yaml"), CPE_WORK=str(work))
    return work, {path: load_file(path) for path in (work / "store").glob("gates/*/gate.safetensors")}


def again(runner, work: Path, name: str):
    hooks = [["write_down", str(work / f"{name}.made")]]
    run = runner.run("erase", str(work / "few.yaml"), hooks=hooks, CPE_WORK=str(work))
    return run, made(work / f"{name}.made")


@pytest.mark.slow
def test_one_emptied_observation_is_seen_again_and_nothing_else_is_made(finished, runner):
    work, _ = finished
    index = next((work / "store" / "observations").glob("*/index.json"))
    index.write_bytes(b"")
    shutil.rmtree(work / "store" / "scores")  # or nobody looks at observations
    before = latest(work)
    run, counts = again(runner, work, "observation")
    assert f"cpe: artifact observations/{index.parent.name} is damaged (index.json is damaged" in run.text
    assert [what[0] for what in counts] == ["seen", "stored", "stored"], "the observation, and the scores"
    assert latest(work)["erased"] == before["erased"]
    assert artifacts_in(work)


@pytest.mark.slow
def test_everything_whose_index_is_emptied_is_made_again_as_it_was(finished, runner):
    work, gates = finished
    damaged = [index for kind in MADE_AGAIN for index in (work / "store" / kind).glob("*/index.json")]
    assert len({index.parent.parent.name for index in damaged}) == len(MADE_AGAIN)
    for index in damaged:
        index.write_bytes(b"")
    run, _ = again(runner, work, "all")
    for kind in set(MADE_AGAIN) - {"pictures"}:
        assert f"cpe: artifact {kind}/" in run.text, kind
    whole = artifacts_in(work)  # each is verified there
    assert {index.parent.relative_to(work / "store").as_posix() for index in damaged} <= whole.keys()
    for path, tensors in gates.items():
        found = load_file(path)
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items()), "the same gate"
    assert registered(work) == [1]


def empty(database: Path) -> None:
    database.write_bytes(b"")


def remove(database: Path) -> None:
    database.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [empty, remove])
def test_a_registry_that_lost_everything_is_not_taken_for_a_new_one(damage, finished, runner):
    work, _ = finished
    database, environment = work / "mlflow.db", {"CPE_WORK": str(work)}
    content = database.read_bytes()
    lost = f"bundles in {(work / 'store').as_uri()} that no registered version names: 1"
    assert "bundles in" not in runner.run("models", **environment).text
    try:
        for command in ("doctor", "models"):
            damage(database)
            text = runner.run(command, **environment, COLUMNS="400").text
            assert " ".join(lost.split()) in " ".join(re.sub("[│\\n]", " ", text).split()), text
        assert "put a backup of it back, or run `cpe erase` with their lists" in text
    finally:
        database.write_bytes(content)


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path, monkeypatch):
    """A store of three gates, in the environment."""
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    if request.param == "s3":
        monkeypatch.setenv("CPE_STORE", f"s3://{request.getfixturevalue('new_bucket')}/deep")
    else:
        monkeypatch.delenv("CPE_STORE", raising=False)
    store = Places.from_environment().store()
    for name in ("one", "two", "three"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({"concept": name}))
        (folder / "gate.safetensors").write_bytes(name.encode() * 1000)
        store.put(f"gates/{name}", folder)
    return store, tmp_path


def spoil(store, key: str, name: str) -> None:
    """Empties a file of an artifact, or its index."""
    if not store.url.startswith("s3"):
        (store.root / key / name).write_bytes(b"")
        return
    own = [item["Key"] for item in store.objects() if item["Key"].startswith(f"deep/{key}/")]
    store.client.put_object(Bucket=store.bucket, Key=next(each for each in own if each.endswith(name)), Body=b"")


def run(*arguments: str, code: int) -> str:
    done = RUNNER.invoke(app, ["store", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return " ".join(done.stdout.split())


def test_verify_lists_exactly_what_is_damaged(place):
    store, _ = place
    assert "all 3 artifacts" in run("verify", code=0)
    spoil(store, "gates/one", "index.json")
    spoil(store, "gates/two", "gate.safetensors")
    shown = run("verify", code=1)
    assert "gates/one │ index.json is damaged" in shown
    assert "gates/two │ gate.safetensors has 0 bytes instead of 3000" in shown
    assert "gates/three" not in shown
    assert "all 0 artifacts" in run("verify", "pictures", code=0)


def test_repair_changes_nothing_before_it_is_told_to_and_then_makes_room_for_what_is_made_again(place):
    store, folder = place
    spoil(store, "gates/one", "index.json")
    spoil(store, "gates/two", "gate.safetensors")
    assert "nothing was changed" in run("repair", code=0)
    assert store.keys() == ["gates/one", "gates/three", "gates/two"]
    assert ".damaged/gates" in run("repair", "--yes", code=0)
    assert store.keys() == ["gates/three"]
    assert "all 1 artifacts" in run("verify", code=0)
    for name in ("one", "two"):
        assert store.put(f"gates/{name}", folder / name)
        store.fetch(f"gates/{name}", folder / "fetched" / name)
    assert "all 3 artifacts" in run("repair", code=0)


def test_a_folder_that_lost_its_index_is_found_and_moved_away(tmp_path, monkeypatch):
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("CPE_STORE", raising=False)
    (folder := tmp_path / "gate" / "deep").mkdir(parents=True)
    for path in (folder, folder.parent):
        (path / "manifest.json").write_text("{}")
    store = Places.from_environment().store()
    store.put("bundles/one", folder.parent)
    (tmp_path / "work" / "store" / "bundles" / "one" / "index.json").unlink()
    with pytest.raises(StoreError, match="`cpe store repair`"):
        store.put("bundles/one", folder.parent)
    assert "bundles/one │ index.json is missing" in run("verify", code=1)
    run("repair", "--yes", code=0)
    assert store.put("bundles/one", folder.parent)


def test_results_that_are_damaged_give_way_to_the_last_whole_ones_and_it_is_said(
    tmp_path_factory, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CPE_WORK", str(tmp_path))
    copied_database(shared(tmp_path_factory).database, tmp_path)
    places = Places.from_environment()
    content = {"list": "few", "model": "cpe-few", "finished_at": "2026-01-01T10:00:00.000000+00:00"}
    for moment in ("1", "2"):
        write_whole(tmp_path / "results" / f"{moment}-few.json", json.dumps({**content, "version": moment}))
    assert latest_results(places, "few")["version"] == "2"
    assert capsys.readouterr().err == ""
    for damage in (b"", b'{"list": "few", "er', b"[]"):
        (tmp_path / "results" / "2-few.json").write_bytes(damage)
        for name in ("few", None):
            assert latest_results(places, name)["version"] == "1"
            assert "2-few.json is damaged; shown is the run before it, of 2026-01-01T10:00" in capsys.readouterr().err
    (tmp_path / "results" / "1-few.json").write_bytes(b"")
    done = RUNNER.invoke(app, ["results", "few"])
    assert done.exit_code == 2
    assert "2-few.json is damaged" in done.stderr
    assert "run `cpe erase few` again" in done.stderr


def test_a_file_is_written_whole_or_not_at_all_and_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    import os

    path, order = tmp_path / "file", []
    write_whole(path, "old")
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        order.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).is_dir()}")
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        order.append("rename")
        real_replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        patch.setattr(os, "replace", replace)
        write_whole(path, "new")
    assert order == ["sync False", "rename", "sync True"], "file, name, folder"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *given: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StoreError, match=f"cannot write {path}: the disk is full"):
            write_whole(path, "newer")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]

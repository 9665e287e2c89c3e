"""Gates from anywhere: folders of any layout, several paths, none loaded twice, and the command says what it took."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.storage.checks import GateFileError
from cpe.methods.pinpoint.storage.files import metadata_of, to_tensors
from cpe.methods.pinpoint.storage.folders import gate_files
from cpe.models.loading import load_pipeline
from cpe.models.text import encode_prompts
from cpe.terms.profiles import PROFILES
from flows.cli.app import app
from helpers.parity import FOLDER
from helpers.tiny import gates_for
from tasks.here.places import Places

PEOPLE = ("adam driver", "amy adams", "drake")
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("embedded")


@pytest.fixture
def released(pipe, tmp_path):
    """A folder of gates as the published code leaves it: one folder a concept, none called gate.safetensors."""
    folder = tmp_path / "celeb_50" / "celeb_single_guide0.3_pal100000.0_gate_rank16_noise0.001"
    for seed, name in enumerate(PEOPLE):
        part = gates_for(pipe, GateConfig(gate_rank=3), seed=seed)
        own = folder / name.replace(" ", "_")
        own.mkdir(parents=True)
        metadata = {"prompts": name, "rank": "1", "alpha": "1.0"}
        save_file(to_tensors(part.gates, part.sites), own / "singleton_onebyone_person_last.safetensors", metadata)
    save_file({"embeddings": torch.ones(2, 3)}, folder / "drake" / "adv_prompts_last.safetensors")
    (folder / "notes.txt").write_text("not a gate")
    return folder.parent


def test_a_released_folder_is_taken_as_it_is(pipe, released):
    assert Eraser.load(released).concepts == PEOPLE
    files = gate_files(released)
    assert [file.parent.name for file in files] == ["adam_driver", "amy_adams", "drake"]
    text = encode_prompts(pipe, ["a tiger"])
    alone = Eraser.load(files).residuals(text)
    for site, value in Eraser.load(released).residuals(text).items():
        torch.testing.assert_close(value, alone[site])


def test_a_gate_given_twice_is_loaded_once(released, tmp_path):
    files = gate_files(released)
    copy = tmp_path / "copy" / "other name.safetensors"
    copy.parent.mkdir()
    shutil.copy(files[0], copy)
    (tmp_path / "link.safetensors").symlink_to(files[1])
    given = [files[1], released, copy, tmp_path / "link.safetensors", tmp_path / "copy", files[1]]
    assert gate_files(given) == [files[1], files[0], files[2]]
    assert sorted(Eraser.load(given).concepts) == sorted(PEOPLE)


def test_a_folder_without_gates_or_with_a_damaged_file_is_told_so(released, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no gates: it has no \.safetensors file"):
        gate_files(tmp_path / "empty")
    save_file({"lora_unet_x.lora_down.weight": torch.ones(2)}, tmp_path / "empty" / "lora.safetensors")
    with pytest.raises(FileNotFoundError, match=r"of its 1 \.safetensors files none does \(lora\.safetensors\)"):
        gate_files([released, tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match=r"there is no gate file .*nowhere"):
        gate_files([released, tmp_path / "nowhere"])
    file = gate_files(released)[1]
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(GateFileError, match=r"amy_adams/.* is damaged or cut off"):
        gate_files(released)


def test_the_command_takes_several_paths_and_registered_models_and_says_what_it_took(
    pipe,
    released,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("CPE_STORE", raising=False)
    part = gates_for(pipe, GateConfig(gate_rank=3), seed=7)
    bundle = tmp_path / "bundle" / "gates" / "rose"
    bundle.mkdir(parents=True)
    save_file(to_tensors(part.gates, part.sites), bundle / "gate.safetensors", metadata_of(part.gates, ["rose"]))
    shutil.copy(gate_files(released)[2], bundle.parent / "drake.safetensors")
    registry = Places.from_environment().registry()
    run_id = registry.record_run("test", params={}, metrics={}, tags={}, artifacts={"bundle": bundle.parents[1]})
    registry.register("cpe-few", run_id, "bundle", tags={})
    first, *_ = gate_files(released)
    gates = [option for path in (first, released, "models:/cpe-few/1", first) for option in ("--gates", str(path))]
    monkeypatch.setitem(PROFILES, "embedded", PROFILES["embedded"].model_copy(update={"steps": 2}))
    done = RUNNER.invoke(app, ["generate", "a rose", *gates, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "gates   4 concepts: adam driver, amy adams, drake, rose" in done.stderr
    assert (tmp_path / "out" / "00000.png").is_file()
    done = RUNNER.invoke(app, ["generate", "a rose", *gates, "--gates", str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "no gates at" in done.stderr


@pytest.mark.skipif(not FOLDER.exists(), reason="no parity data")
def test_released_gates_of_the_field_are_taken_where_they_are_at_hand():
    folder = FOLDER / "gates"
    people = [file for file in gate_files(folder) if file.stem != "nudity"]
    assert len(people) == len(list(folder.glob("*.safetensors"))) - 1
    assert "barack obama" in Eraser.load([*people, folder / "barack_obama.safetensors"]).concepts
    assert len(Eraser.load(folder).concepts) == len(people) + 1

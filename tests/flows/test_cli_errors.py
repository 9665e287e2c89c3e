"""Bad input: one clear message with the way out, exit code 2, nothing half-written."""

import errno
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file
from typer.testing import CliRunner

import cpe.models.drawing
from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.storage.files import metadata_of, to_tensors
from cpe.models.loading import EMBEDDED_FOLDER
from flows.cli.app import app
from helpers.here import here
from helpers.lists import LIST
from helpers.small import random_gates, small_base

RUNNER = CliRunner()


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def refused(*arguments: str) -> str:
    """Returns the message of a command that must fail with exit code 2."""
    done = RUNNER.invoke(app, list(arguments))
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip(), "a message"
    return done.stderr


def write_list(folder, **changes):
    path = folder / "list.yaml"
    path.write_text(yaml.safe_dump({**LIST, **changes}, sort_keys=False))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"targets": []}, "targets"),
        ({"targets": ["rose", "Rose"]}, "rose"),
        ({"targets": [{"name": "rose", "aliases": ["pizza"]}, "pizza"]}, "pizza"),
        ({"targets": ["cat"]}, "cat"),
        ({"base_model": "no such model"}, "no base model"),
        ({"training": {"preset": "emoji", "changes": {"stage": 3}}}, "stage"),
    ],
)
def test_a_wrong_list_is_refused_and_leaves_nothing(work, changes, message):
    assert message in refused("erase", write_list(work, **changes))
    assert not (work / "work" / "store").exists()


def test_a_wrong_list_names_the_line(work):
    path = write_list(work, targets=["rose", "Rose"])
    line = 1 + Path(path).read_text().splitlines().index("- Rose")
    assert f"line {line}" in refused("erase", path)


def test_a_missing_list_is_refused(work):
    assert "no such concept list" in refused("erase", "nothing")


def test_a_model_without_cross_attention_is_refused(work):
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), norm_num_groups=4,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(work / "model")
    assert "no cross-attention" in refused("evaluate", write_list(work, base_model=str(work / "model")))


def test_a_model_folder_that_lacks_a_part_is_refused(work):
    shutil.copytree(EMBEDDED_FOLDER, work / "model")
    shutil.rmtree(work / "model" / "unet")
    assert "no usable model folder" in refused("evaluate", write_list(work, base_model=str(work / "model")))


def test_gates_of_another_width_are_refused_and_leave_no_folder(work):
    base = small_base(torch.float32)
    gates = random_gates(GateConfig(gate_rank=4), base)
    path = work / "narrow.safetensors"
    save_file(to_tensors(gates, base.names), path, metadata_of(gates, ["rose"]))
    message = refused("generate", "a rose", "--gates", str(path), "--out", str(work / "out"))
    assert "expect text width 20, the pipeline has 96" in message
    assert not (work / "out").exists()


def test_concepts_that_cannot_be_measured_are_refused_with_their_lines_and_the_nearest_known_ones(work):
    path = write_list(work, targets=[{"name": "tigre"}, "rose", "zebra"], kept=["castel"])
    message = refused("evaluate", path)
    lines = Path(path).read_text().splitlines()
    for written, near in (("- name: tigre", "tiger"), ("- zebra", None), ("- castel", "castle")):
        said = f"line {1 + lines.index(written)}: the classifier does not know the noun {written.split()[-1]!r}"
        assert said in message
        assert near is None or f"did you mean {near!r}?" in message


def test_a_list_without_anchors_is_refused(work):
    anchors = {"general": [], "pool": ["cat", "castle"]}
    assert "nothing is left to anchor 'rose'" in refused("evaluate", write_list(work, anchors=anchors))


def test_no_network_for_a_hub_name_says_so(work, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be fetched" in refused("generate", "a rose", "--model", "nobody/nothing", "--out", str(work / "out"))
    assert not (work / "out").exists()


def test_damaged_gates_are_refused(work):
    (work / "gate.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    assert "damaged" in refused("generate", "a rose", "--gates", str(work / "gate.safetensors"))
    assert "no gates at" in refused("generate", "a rose", "--gates", str(work / "absent"))


def test_a_store_that_cannot_be_written_is_refused(work, monkeypatch):
    (work / "file").write_text("in the way")
    monkeypatch.setenv("CPE_STORE", f"file://{work / 'file'}")
    assert str(work / "file") in refused("evaluate", write_list(work))


def test_a_full_disk_is_said_and_leaves_no_artifact(work, monkeypatch):
    from tasks.draw import draw_pictures
    from tasks.prepare import prepare_concepts

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    small = {
        "targets": ["rose"],
        "kept": ["cat"],
        "evaluation": {"as_published": True, "templates": ["a {}"], "seeds": 1},
    }
    plan = prepare_concepts(here(), write_list(work, **small))
    store = here().store()
    with monkeypatch.context() as patch:
        patch.setattr("artifacts.stores.folder._copy_file", full)
        with pytest.raises(OSError, match=r"[Ss]pace|full"):
            draw_pictures(here(), plan, None)
    assert store.keys("pictures") == []
    real, drawn = cpe.models.drawing.generate, []
    monkeypatch.setattr(
        "cpe.models.drawing.generate", lambda *a, **o: (drawn.append(pair[0].prompt) or pair for pair in real(*a, **o))
    )
    addresses = draw_pictures(here(), plan, None)
    assert store.keys("pictures") == sorted(f"pictures/{address}" for address in addresses)
    assert drawn == ["a cat"], "with room again, what was drawn is stored without drawing it again"


def test_an_unknown_registered_model_is_refused(work):
    assert "cpe-nothing" in refused("models", "show", "cpe-nothing@champion")


def test_a_word_nobody_knows_is_refused(work):
    assert "qqzzxx" in refused("neighbors", "qqzzxx")
    assert "no-vectors" in refused("neighbors", "tiger", "--vectors", str(work / "no-vectors.bin"))


def test_a_bad_setting_of_the_environment_is_refused(work, monkeypatch):
    monkeypatch.setenv("CPE_THREADS", "many")
    assert "CPE_THREADS" in refused("results")


def test_no_results_yet_says_how_to_get_some(work):
    assert "cpe erase emoji" in refused("results")

"""Gates pushed to a hub and brought back by its own client are the same gates, or are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cpe import Eraser, encode_prompts, load_pipeline
from cpe.methods.sharing import CONFIG, WEIGHTS, check_folder
from helpers.hub import TOKEN, running_hub
from helpers.page import page_places
from tasks.desk.hub import write_shared

LOAD = "import sys; from cpe import Eraser; print(sorted(Eraser.from_pretrained(*sys.argv[1:2]).concepts))"
PUSH = "import sys; from cpe import Eraser; Eraser.load(sys.argv[1]).push_to_hub(sys.argv[2], base_model='embedded')"


@pytest.fixture(scope="module")
def hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return page_places(tmp_path_factory.mktemp("sharing"))


@pytest.fixture
def run(hub, places, tmp_path):
    def run(*command, token=TOKEN):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CPE_", "HF_", "MLFLOW_"))}
        told = {"CPE_WORK": str(places.work), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        told |= {"HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return subprocess.run(
            [sys.executable, *command], env=kept | told, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return run


def cpe(*words):
    return ["-m", "flows.cli.app", *words]


@pytest.fixture
def bundle(places, tmp_path) -> Path:
    return places.registry().fetch("cpe-few/1", tmp_path / "bundle")


def test_all_gates_are_one_file_and_erase_as_before(bundle, tmp_path):
    write_shared(bundle, tmp_path / "shared", base_model="embedded")
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["README.md", CONFIG, WEIGHTS]
    config = check_folder(tmp_path / "shared", "it")
    assert (config["method"], config["base_model"]) == ("cpe", "embedded")
    one, other = Eraser.load(bundle), Eraser.from_pretrained(tmp_path / "shared")
    assert sorted(one.concepts) == sorted(other.concepts) == sorted(config["concepts"])
    text = encode_prompts(load_pipeline("embedded", device="cpu"), ["a rose", "a pizza", "a cat"])
    for name, residual in one.residuals(text).items():
        assert torch.equal(residual, other.residuals(text)[name])


def test_a_folder_that_was_changed_is_refused(bundle, tmp_path):
    Eraser.load(bundle).save_pretrained(tmp_path, base_model="embedded")
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, "format": 2}))
    with pytest.raises(ValueError, match="format 2, this release reads 1"):
        check_folder(tmp_path, "it")
    (tmp_path / CONFIG).write_text(json.dumps({**config, "sha256": {WEIGHTS: "0" * 64}}))
    with pytest.raises(ValueError, match=r"model\.safetensors is missing or not the one"):
        check_folder(tmp_path, "it")
    (tmp_path / CONFIG).unlink()
    with pytest.raises(ValueError, match=r"holds no config\.json of cpe"):
        check_folder(tmp_path, "it")


@pytest.mark.slow
def test_a_version_goes_to_the_hub_and_comes_back(hub, run, tmp_path):
    pushed = run(*cpe("push", "cpe-few/1", "me/few"))
    assert pushed.returncode == 0, pushed.stderr
    assert hub.private["me/few"]
    commit = hub.heads["me/few"]["main"]
    assert commit in pushed.stdout
    assert set(hub.files["me/few", commit]) == {"README.md", CONFIG, WEIGHTS}
    pulled = run(*cpe("pull", "me/few"))
    assert pulled.returncode == 0, pulled.stderr
    assert sorted(Eraser.from_pretrained(tmp_path / "few").concepts) == ["pizza", "rose"]
    again = run(*cpe("pull", "me/few"))
    assert again.returncode == 2
    assert "few is there already" in again.stderr
    loaded = run("-c", LOAD, "me/few")
    assert loaded.stdout.strip() == "['pizza', 'rose']", loaded.stderr


@pytest.mark.slow
def test_an_eraser_is_pushed_from_python_on_a_branch_of_its_own_and_a_commit_stays(hub, run, bundle):
    pushed = run("-c", PUSH, str(bundle), "me/python")
    assert pushed.returncode == 0, pushed.stderr
    commit = hub.heads["me/python"]["main"]
    hub.add("me/python", "main", {WEIGHTS: b"other"})
    told = run("-c", LOAD, "me/python")
    assert "is missing or not the one" in told.stderr
    pinned = LOAD.replace("*sys.argv[1:2]", "sys.argv[1], revision=sys.argv[2]")
    assert run("-c", pinned, "me/python", commit).stdout.strip() == "['pizza', 'rose']"


@pytest.mark.slow
def test_what_the_hub_refuses_is_told_in_one_line(run):
    for command, token in ((cpe("push", "cpe-few/1", "me/few"), "hf_wrong"), (cpe("pull", "me/nothing"), TOKEN)):
        done = run(*command, token=token)
        assert done.returncode == 2, done.stdout
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "HF_TOKEN" in done.stderr
    named = run(*cpe("pull", "nothing"))
    assert "'nothing' is no repository; give owner/name" in named.stderr

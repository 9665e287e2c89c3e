"""A training that is killed and started again ends in the same gate, bit for bit."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cpe.methods.checkpoint import CheckpointError
from cpe.methods.pinpoint.records import Trained
from cpe.methods.pinpoint.training import train
from helpers.places import TESTS
from helpers.small import random_text, small_base
from helpers.training import CONFIG, concept

SETTINGS = CONFIG.model_copy(
    update={"stages": 3, "first_steps": 50, "later_steps": 40, "adversary_steps": 30, "replay": 2, "plateau": 0.01}
)


class KilledError(Exception):
    """Stands for the end of a process between two steps."""


def run(checkpoint: Path | None, config=SETTINGS, watch=None, every: int = 7) -> Trained:
    concepts = [concept("a", 1), concept("b", 2)]
    empty = random_text(1, seed=999).float()[0]
    return train(
        concepts, small_base(torch.float32), empty, config, watch=watch, checkpoint=checkpoint, checkpoint_every=every
    )


def tensors(trained: Trained) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in trained.gates.trained().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture(scope="module")
def uninterrupted() -> Trained:
    return run(None)


@pytest.mark.parametrize("stops", [[3], [49, 50], [60], [85, 130, 171], list(range(10, 185, 9))])
def test_an_interrupted_training_goes_on_to_the_same_gate_and_curves(stops, uninterrupted, tmp_path):
    for stop in stops:
        with pytest.raises(KilledError):
            run(tmp_path / "checkpoint", watch=lambda record, stop=stop: raise_at(record, stop))
    resumed = run(tmp_path / "checkpoint")
    assert same(tensors(resumed), tensors(uninterrupted))
    assert resumed.curves == uninterrupted.curves


def test_a_resumed_training_does_not_begin_again(tmp_path):
    steps = []

    def stop_at_60(record):
        steps.append(record.taken)
        if len(steps) == 60:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "checkpoint", watch=stop_at_60)
    again = []
    run(tmp_path / "checkpoint", watch=lambda record: again.append(record.taken))
    assert again[0] == 57, "the last multiple of 7 within the adversary's phase that began at 50"
    assert len(again) == len(set(again))


def test_killed_by_the_system_at_random_moments(uninterrupted, tmp_path):
    script = (  # what trains is forked: importing all once saves seconds a kill
        "import os, sys, time, torch; sys.path[:0] = sys.argv[1:3]; torch.set_num_threads(1)\n"
        "from pathlib import Path; from safetensors.torch import save_file; from test_checkpoint import run, tensors\n"
        "for line in sys.stdin:\n"
        "    if child := os.fork():\n"
        "        print(child, flush=True)\n"
        "        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "        continue\n"
        "    try:\n"
        "        trained = run(Path(sys.argv[3]), watch=lambda record: time.sleep(0.004))\n"
        "        save_file(tensors(trained), sys.argv[4])\n"
        "    finally:\n"
        "        os._exit(not Path(sys.argv[4]).exists())"
    )
    here = Path(__file__).parent
    done, killed = tmp_path / "gate.safetensors", 0
    dice = random.Random(0)
    command = [sys.executable, "-c", script, str(here), str(TESTS), str(tmp_path / "checkpoint"), str(done)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while not done.exists():
            process.stdin.write("train\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            if killed < 4:
                time.sleep(dice.uniform(0.15, 0.6))
                os.kill(child, signal.SIGKILL)
            code = int(process.stdout.readline())
            killed += code == -9
            assert code in (0, -9)
    assert killed >= 3, "the training was killed, not merely run"
    assert same(load_file(done), tensors(uninterrupted))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"first_steps": 51}, r"config.first_steps is 50 there, 51 here"),
        ({"gradient_clip": 1.0}, r"config.gradient_clip is None there, 1.0 here"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused_by_name(change, named, tmp_path):
    path = tmp_path / "checkpoint"
    run(path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=named + r"; delete it"):
        run(path, SETTINGS.model_copy(update=change))
    assert path.read_bytes() == before


def other_target(texts):
    changed = texts.target.clone()
    changed[0, 0, 0] += 1
    return dataclasses.replace(texts, target=changed)


def other_anchor(texts):
    changed = texts.anchors.clone()
    changed[texts.anchor_rows[-1]] += 1
    return dataclasses.replace(texts, anchors=changed)


def fewer_anchors(texts):
    return dataclasses.replace(texts, anchor_rows=texts.anchor_rows[:-1])


def other_seed(texts):
    return dataclasses.replace(texts, seed=7)


@pytest.mark.parametrize(
    ("change", "named"),
    [(other_target, "texts"), (other_anchor, "anchors"), (fewer_anchors, "anchors"), (other_seed, "seeds")],
)
def test_a_checkpoint_of_other_texts_is_refused(change, named, tmp_path):
    path, empty = tmp_path / "checkpoint", random_text(1, seed=999).float()[0]
    train([concept("a", 1)], small_base(torch.float32), empty, CONFIG, checkpoint=path)
    with pytest.raises(CheckpointError, match=f"another training: {named} is"):
        train([change(concept("a", 1))], small_base(torch.float32), empty, CONFIG, checkpoint=path)


def test_a_checkpoint_of_another_base_model_is_refused(tmp_path):
    path, empty = tmp_path / "checkpoint", random_text(1, seed=999).float()[0]
    train([concept("a", 1)], small_base(torch.float32), empty, CONFIG, checkpoint=path)
    with pytest.raises(CheckpointError, match="another training: base model is"):
        train([concept("a", 1)], small_base(torch.float32, seed=1), empty, CONFIG, checkpoint=path)


def test_where_anchors_lie_in_their_table_does_not_matter(tmp_path):
    path, empty = tmp_path / "checkpoint", random_text(1, seed=999).float()[0]
    train([concept("a", 1)], small_base(torch.float32), empty, CONFIG, checkpoint=path)
    texts, seen = concept("a", 1), []
    moved = dataclasses.replace(
        texts, anchors=texts.anchors.flip(0), anchor_rows=len(texts.anchors) - 1 - texts.anchor_rows
    )
    train([moved], small_base(torch.float32), empty, CONFIG, checkpoint=path, watch=seen.append)
    assert not seen, "the training was done"


@pytest.mark.parametrize("damage", ["cut", "garbage", "format"])
def test_a_damaged_checkpoint_is_refused_with_the_way_out(damage, tmp_path):
    path = tmp_path / "checkpoint"
    run(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "garbage":
        path.write_bytes(b"not safetensors at all")
    else:
        save_file({"a": torch.zeros(1)}, path, {"format": "0", "identity": "{}", "plain": json.dumps({})})
    with pytest.raises(CheckpointError, match=r"checkpoint .* is (damaged|of format).*; delete it"):
        run(path)


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    with pytest.raises(KilledError):
        run(path, watch=lambda record: raise_at(record, 20))
    before = path.read_bytes()

    def full(tensors, filename, metadata):
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cpe.methods.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space"):
        run(path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["checkpoint"]


def raise_at(record, step: int) -> None:
    if record.taken >= step:
        raise KilledError

"""Checkpoints: gone on from exactly as they were written, or refused in one short message."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cpe.methods.checkpoint import Checkpoint, CheckpointError
from helpers.fuzz import DEEP, JSON, SHORT, cases

IDENTITY, PLAIN = {"config.seed": 7, "concepts": ["a"]}, {"stage": 1, "curves": [[{"erase": 0.5}]]}
STATE = {"flat": torch.arange(6.0).reshape(2, 3), "optimizer.step": torch.tensor(3.0), "noise.0": torch.tensor([1, 2])}


def test_a_checkpoint_with_another_byte_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    Checkpoint(IDENTITY, PLAIN, STATE).write(path)
    good = path.read_bytes()
    found = Checkpoint.read(path, expected=IDENTITY)
    assert found is not None
    assert (found.identity, found.plain) == (IDENTITY, PLAIN)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in STATE.items())

    @cases(600)
    @given(place=st.integers(0, len(good) - 1), change=st.integers(1, 255), cut=st.booleans())
    def check(place, change, cut):
        path.write_bytes(good[:place] + (b"" if cut else bytes([good[place] ^ change]) + good[place + 1 :]))
        with pytest.raises(CheckpointError, match="delete it to train from the start") as caught:
            Checkpoint.read(path, expected=IDENTITY)
        assert len(str(caught.value)) < SHORT + len(str(path))

    check()


def test_a_checkpoint_may_say_anything(tmp_path):
    path = tmp_path / "checkpoint"
    texts = JSON.map(json.dumps) | st.sampled_from([DEEP, "", "{", json.dumps({"concepts": "x" * 10_000})])

    @cases(300)
    @given(metadata=st.fixed_dictionaries({"identity": texts, "plain": texts, "hash": texts, "format": st.just("2")}))
    def check(metadata):
        save_file(STATE, path, metadata)
        with pytest.raises(CheckpointError, match="delete it to train from the start") as caught:
            Checkpoint.read(path, expected=IDENTITY)
        assert len(str(caught.value)) < SHORT + len(str(path))

    check()

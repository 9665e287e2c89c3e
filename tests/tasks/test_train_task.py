"""The training task goes on where it was interrupted, and never waits for somebody to delete a checkpoint."""

from contextlib import contextmanager

import pytest
import torch
import yaml

from cpe.methods.pinpoint.storage.checks import FILE_NAME
from cpe.methods.pinpoint.storage.files import read_gates
from helpers.here import places_in
from helpers.prepare import LIST
from tasks import train
from tasks.prepare import prepare_concepts

STEPS = {"stages": 2, "first_steps": 300, "later_steps": 20, "adversary_steps": 20, "copies": 2, "anchors_per_step": 2}


@pytest.fixture
def trained_in(tmp_path, monkeypatch):
    """Trains the list's gates in a work folder of its own name, and returns their tensors and the steps it took."""
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump({**LIST, "targets": ["rose"], "training": {"preset": "emoji", "changes": STEPS}}))

    def run(work: str, stop_at: int | None = None):
        shown: list[int] = []

        @contextmanager
        def counting(label, total, unit, *, initial):
            def done(note=""):
                shown.append(1 if shown else initial + 1)
                if stop_at is not None and sum(shown) >= stop_at:
                    raise KeyboardInterrupt

            yield done
            assert sum(shown) == total == 340

        places = places_in(tmp_path / work)
        plan = prepare_concepts(places, str(path))
        monkeypatch.setattr(train, "progress", counting)
        (address,) = train.train_gates(places, plan, ["rose"])
        folder = places.fetched(f"gates/{address}")
        return read_gates(folder / FILE_NAME).gates.trained(), shown

    return run


def checkpoints(tmp_path, work: str):
    return list((tmp_path / work / "checkpoints").glob("*"))


def test_an_interrupted_training_goes_on_to_the_same_gate(trained_in, tmp_path):
    expected, steps = trained_in("whole")
    assert len(steps) == 340
    with pytest.raises(KeyboardInterrupt):
        trained_in("interrupted", stop_at=280)
    assert len(checkpoints(tmp_path, "interrupted")) == 1
    gates, steps = trained_in("interrupted")
    assert steps[0] == 251, "the bar begins where the checkpoint is"
    assert len(steps) == 340 - 250
    assert all(torch.equal(tensor, expected[name]) for name, tensor in gates.items())
    assert not checkpoints(tmp_path, "interrupted"), "it goes once the gate is stored"


def test_a_damaged_checkpoint_costs_time_alone(trained_in, tmp_path, capsys):
    expected, _ = trained_in("whole")
    with pytest.raises(KeyboardInterrupt):
        trained_in("damaged", stop_at=280)
    (path,) = checkpoints(tmp_path, "damaged")
    path.write_bytes(path.read_bytes()[:-100])
    gates, steps = trained_in("damaged")
    assert len(steps) == 340
    assert "is damaged" in capsys.readouterr().err
    assert all(torch.equal(tensor, expected[name]) for name, tensor in gates.items())


def test_a_checkpoint_outlives_another_order_of_the_embedding_cache(trained_in, tmp_path):
    """What was encoded first lies first in the cache; a training is known by its texts, not by their rows."""
    with pytest.raises(KeyboardInterrupt):
        trained_in("moved", stop_at=280)
    (cache,) = (tmp_path / "moved" / "embeddings").iterdir()
    index, rows = (cache / "index.jsonl"), (cache / "rows.f16")
    header, *lines = index.read_text().splitlines(keepends=True)
    size = len(rows.read_bytes()) // len(lines)
    data = rows.read_bytes()
    index.write_text("".join([header, *lines[::-1]]))
    rows.write_bytes(b"".join(data[start : start + size] for start in range(len(data) - size, -1, -size)))
    _, steps = trained_in("moved")
    assert steps[0] == 251

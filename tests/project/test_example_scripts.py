"""The scripts in `examples` do what they say."""

import importlib
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from cpe.embedded.classifier import PictureClassifier, classify
from cpe.embedded.pixels import to_tensor
from cpe.methods.table import METHODS
from cpe.metrics.table import METRICS
from cpe.models.loading import EMBEDDED_FOLDER
from cpe.observers.people_program import ProgramObserver
from helpers.faults_servers import on_prefect
from helpers.lists import LITTLE
from helpers.places import PROJECT
from tasks.evaluation.observers import OBSERVERS

EXAMPLES = PROJECT / "examples"


@pytest.fixture
def example(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for table, name in ((METRICS, "redness"), (OBSERVERS, "redness"), (METHODS, "blunt")):
        monkeypatch.setitem(table, name, None)  # what was not there before is not there afterwards
        table.pop(name)
    yield importlib.import_module
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "little.yaml"
    path.write_text(yaml.safe_dump(LITTLE))
    return path


def test_every_example_is_tried_here():
    text = (PROJECT / "tests" / "project" / "test_example_scripts.py").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'example("{path.stem}")' in text or f'"{path.name}"' in text, path


@pytest.mark.slow
def test_one_noun_goes_and_a_cat_stays(example, tmp_path):
    before, after, cat, same_cat = example("erase_one_noun").main("tiger", tmp_path / "out")
    classifier = PictureClassifier.load(EMBEDDED_FOLDER / "classifier")
    found, _, _ = classify(classifier, to_tensor([before, after, cat, same_cat]))
    names = [classifier.nouns[index] for index in found.tolist()]
    assert (names[0], names[2], names[3]) == ("tiger", "cat", "cat")
    assert names[1] != "tiger"
    assert (tmp_path / "out" / "before-after.png").is_file()
    gates, out = [str(tmp_path / "out")], tmp_path / "a.png"
    drawn = example("released_gate").main("embedded", gates, "a picture of a tiger", out)
    assert drawn.size == (64, 64)
    assert out.is_file()


@pytest.mark.slow
def test_a_measure_of_ones_own_is_in_the_figures(example, listed, tmp_path_factory):
    with on_prefect(tmp_path_factory):
        figures = example("own_metric").main(str(listed))
    assert [figure["label"] for figure in figures] == ["Redness, erased concepts", "Redness, kept concepts"]
    assert all(0 < figure[phase] < 1 for figure in figures for phase in ("before", "after"))


@pytest.mark.slow
def test_a_way_of_erasing_of_ones_own_goes_through_the_flow(example, listed, tmp_path_factory):
    with on_prefect(tmp_path_factory):
        results = example("own_eraser").main(str(listed))
    assert results["model"] == "cpe-blunt-little"
    for role in ("erased", "kept"):
        assert results[role]["after"] < results[role]["before"], "it forgets everything"


def test_a_detector_of_ones_own_is_asked():
    rosa, grey = (
        Image.fromarray(np.full((64, 64, 3), colour, np.uint8)) for colour in ((230, 60, 60), (128, 200, 128))
    )
    with ProgramObserver.open([sys.executable, str(EXAMPLES / "own_detector.py")]) as observer:
        assert observer.labels == ("Rosa Example", "Blue Example")
        seen = observer.look([rosa, grey], ["a portrait of Rosa Example", "a tree"])
    assert seen["identity"].tolist() == ["Rosa Example", ""]
    assert seen["faces"].tolist() == [1, 0]

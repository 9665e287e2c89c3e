"""A new eraser, domain, family, metric and attack: each is added in one place and goes through the flow."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from artifacts.tables import SCORES, read_table
from cpe import Erased
from cpe.attacks.table import ATTACKS
from cpe.methods.table import METHODS
from cpe.metrics.table import METRICS
from cpe.models.families.table import FAMILIES
from cpe.terms.domains import CLASSIFIER, DOMAINS, Domain
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.faults_servers import on_prefect
from helpers.lists import LIST
from tasks.evaluation.observers import OBSERVERS
from tasks.here.places import Places

METHOD = '''
"""Forgets every text: all become the mean of the surrogates."""
import json
import torch
from cpe.methods.base import Method
from cpe.methods.erased import METHOD_KEY
from cpe.methods.lessons import Piece
from cpe.methods.weights import read_edit
from cpe.terms.settings import Settings

class ToyConfig(Settings):
    share: float = 1.0

class Toy(Method):
    name, title, version = "toy", "toys", 1
    settings, presets, joint, file_name = ToyConfig, {"plain": ToyConfig()}, True, "toy.safetensors"

    def train(self, lessons, texts, pipe, config, bench):
        step = bench.begin(1, 0)
        width = texts.table.shape[-1]
        step("toy")
        names = json.dumps([lesson.concept for lesson in lessons])
        return [Piece({"text_map": -config.share * torch.eye(width)}, {METHOD_KEY: "toy", "concepts": names})]

    def load(self, paths):
        return read_edit(paths)

    def seconds(self, pipe, text, config, concepts, cache):
        return 0.0

    def size(self, pipe, config, concepts):
        return 4

TOY = Toy()
'''
METRIC = '''
"""How red pictures are."""
import numpy as np
from cpe.metrics.base import Metric
from cpe.metrics.score import mean_score
from cpe.observers.base import Observer

class Redness(Observer):
    name, identity = "redness", "redness 1"

    def look(self, pictures, prompts):
        return {"red": np.array([np.asarray(one)[..., 0].mean() / 255 for one in pictures])}

REDNESS = Metric(
    name="redness", label="Redness", unit="share", needs=("red",),
    score=lambda values, clusters: [mean_score("redness", values["red"], unit="mean share", clusters=clusters)],
)
'''
ATTACK = """
from cpe.attacks.base import Attack
TOY = Attack("toy", "asks for a toy of it", lambda sought: [f"a toy {sought.name}"])
"""
FAMILY = """
from cpe.models.families.unet import UNetFamily

class Toys(UNetFamily):
    name, asked = "toys", []

    def texts(self, pipe, prompts):
        self.asked += prompts
        return super().texts(pipe, prompts)

TOYS = Toys()
"""


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A package that nothing of ours knows, and the row of each table that names a thing of it."""
    package = tmp_path / "toybox"
    package.mkdir()
    codes = {"__init__": "", "method": METHOD, "metric": METRIC, "attack": ATTACK, "family": FAMILY}
    for name, code in codes.items():
        (package / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(METHODS, "toy", "toybox.method:TOY")
    monkeypatch.setitem(METRICS, "redness", "toybox.metric:REDNESS")
    monkeypatch.setitem(FAMILIES, "unet", "toybox.family:TOYS")
    monkeypatch.setitem(ATTACKS, "toy", "toybox.attack:TOY")
    monkeypatch.setitem(
        DOMAINS, "plaything", Domain("plaything", recognised="noun", aside="style", observer=CLASSIFIER)
    )

    def redness(plan, places):
        from toybox.metric import Redness

        return Redness()

    monkeypatch.setitem(OBSERVERS, "redness", redness)
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("CPE_DATA", str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("toybox")]:
        del sys.modules[name]


def test_one_of_each_goes_through_the_flow(toys, tmp_path_factory):
    mine = {"name": "mine", "csv": "mine.csv", "concept": "rose"}
    (toys / "mine.csv").write_text("prompt,seed\na picture of a rose,3\na rose,4\n")
    listed = {
        **LIST,
        "name": "toys",
        "domain": "plaything",
        "method": "toy",
        "training": {"preset": "plain", "changes": {"share": 0.9}},
        "evaluation": {"as_published": True, "templates": ["a picture of a {}"], "seeds": 2, "attacks": ["toy", mine]},
        "bars": {
            "erased_accuracy_at_most": 0.5,
            "erased_redness_at_most": 1.0,
            "kept_redness_ratio_at_least": 0.0,
            "attack_toy_at_most": 0.5,
            "attack_mine_at_most": 0.5,
            "least_pictures": 2,
        },
    }
    path = toys / "toys.yaml"
    path.write_text(yaml.safe_dump(listed))
    with on_prefect(tmp_path_factory):
        results = erase_and_evaluate(str(path))
    bars = {bar["name"]: bar for bar in results["bars"]}
    assert set(bars) == {
        "accuracy on erased concepts", "redness on erased concepts", "redness on kept concepts, of what it was",
        "accuracy on erased concepts under the attack 'toy'", "accuracy on erased concepts under the attack 'mine'",
    }  # fmt: skip
    assert all(bar["holds"] for bar in bars.values())
    assert results["champion"]
    assert results["erased"]["before"] > results["erased"]["after"], "the toy erases, and everything with it"
    labels = {figure["label"]: figure for figure in results["figures"]}
    assert 0 < labels["Redness, erased concepts"]["before"] < 1
    assert labels["Accuracy on set attack-toy"]["count"] == 2 * 2
    assert labels["Accuracy on set attack-mine"]["count"] == 2
    assert labels["Accuracy on set attack-mine"]["before"] > 0
    places = Places.from_environment()
    (scores,) = (toys / "work" / "fetched").glob("*/scores/*/scores.parquet")
    groups = {(row["metric"], row["phase"], row["group"]) for row in read_table(scores, SCORES)}
    assert {("plaything_accuracy", phase, "set attack-toy") for phase in ("before", "after")} <= groups
    assert {("redness", phase, "all") for phase in ("before", "after")} <= groups
    fetched = places.registry().fetch("cpe-toys@champion", toys / "fetched")
    assert json.loads((fetched / "manifest.json").read_text())["method"] == "toy"
    assert Erased.load(fetched).concepts == ("rose", "pizza")
    from toybox.family import TOYS

    assert {"a rose", "a pizza", "a color"} <= set(TOYS.asked), "its embeddings are those that training sees"
    html = Path(results["report"]).read_text()
    assert "Redness" in html
    assert "attack-toy" in html

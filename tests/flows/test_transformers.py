"""Lists on other families than Stable Diffusion: from names to a registered bundle that erases."""

import pytest
import torch
import yaml

from artifacts.registry.registry import Registry
from cpe import Erased
from cpe.models.loading import load_pipeline
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.faults_servers import on_prefect
from helpers.lists import LITTLE
from helpers.tiny_transformers import draw_tiny, tiny_transformer


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    with on_prefect(tmp_path_factory):
        yield


@pytest.mark.parametrize("kind", ["pixart", "sana"])
def test_a_list_goes_from_names_to_gates_that_erase(harness, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("CPE_WORK", str(tmp_path))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    model = tmp_path / "model"
    tiny_transformer(kind).save_pretrained(model)
    quick = {"preset": "emoji", "changes": {"stages": 2, "first_steps": 30, "later_steps": 5, "adversary_steps": 3}}
    path = tmp_path / "little.yaml"
    path.write_text(yaml.safe_dump({**LITTLE, "targets": ["rose"], "base_model": str(model), "training": quick}))
    results = erase_and_evaluate(str(path))
    assert results["gates"] == {"trained": 1, "reused": 0}
    assert results["erased"]["count"] == 2
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    erased = Erased.load(registry.fetch("models:/cpe-little/1", tmp_path / "copy"))
    pipe = load_pipeline(str(model), device="cpu")
    before = draw_tiny(pipe, kind, "a rose")
    with erased.attached(pipe):
        after = draw_tiny(pipe, kind, "a rose")
    assert not torch.equal(before, after)
    assert torch.equal(draw_tiny(pipe, kind, "a rose"), before)
    assert erase_and_evaluate(str(path))["gates"] == {"trained": 0, "reused": 1}

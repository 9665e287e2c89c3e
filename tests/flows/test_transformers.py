"""Lists on other families than Stable Diffusion: from names to a registered bundle that erases."""

import pytest
import torch
import yaml

from artifacts.registry.registry import Registry
from artifacts.tables import PICTURES, read_table
from cpe import Erased
from cpe.models.loading import load_pipeline
from cpe.terms.profiles import PROFILES, Profile
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.faults_servers import on_prefect
from helpers.lists import LITTLE
from helpers.tiny_transformers import draw_tiny, tiny_transformer

VIDEO = Profile(
    name="small-video",
    steps=2,
    guidance_scale=3.0,
    height=16,
    width=16,
    batch=2,
    clip_model="embedded",
    features="embedded",
    frames=5,
    frames_kept=2,
)


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    with on_prefect(tmp_path_factory):
        yield


def few(folder, model, **changes):
    """Returns the path of a list of one concept, quickly trained."""
    quick = {"preset": "emoji", "changes": {"stages": 2, "first_steps": 30, "later_steps": 5, "adversary_steps": 3}}
    path = folder / "little.yaml"
    listed = {**LITTLE, "targets": ["rose"], "base_model": str(model), "training": quick, **changes}
    path.write_text(yaml.safe_dump(listed))
    return path


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A work folder of its own."""
    monkeypatch.setenv("CPE_WORK", str(tmp_path))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("kind", ["pixart", "sana"])
def test_a_list_goes_from_names_to_gates_that_erase(harness, kind, work):
    model = work / "model"
    tiny_transformer(kind).save_pretrained(model)
    path = few(work, model)
    results = erase_and_evaluate(str(path))
    assert results["gates"] == {"trained": 1, "reused": 0}
    assert results["erased"]["count"] == 2
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    erased = Erased.load(registry.fetch("models:/cpe-little/1", work / "copy"))
    pipe = load_pipeline(str(model), device="cpu")
    before = draw_tiny(pipe, kind, "a rose")
    with erased.attached(pipe):
        after = draw_tiny(pipe, kind, "a rose")
    assert not torch.equal(before, after)
    assert torch.equal(draw_tiny(pipe, kind, "a rose"), before)
    assert erase_and_evaluate(str(path))["gates"] == {"trained": 0, "reused": 1}


def test_videos_are_drawn_measured_by_their_frames_and_shown(harness, work, monkeypatch):
    monkeypatch.setitem(PROFILES, VIDEO.name, VIDEO)
    model = work / "model"
    tiny_transformer("wan").save_pretrained(model)
    path = few(work, model, profile=VIDEO.name)
    results = erase_and_evaluate(str(path))
    assert results["erased"]["count"] == 2 * 2, "two seeds, of each two frames"
    drawn = [folder for folder in (work / "store" / "pictures").iterdir() if (folder / "images.parquet").exists()]
    for folder in drawn:
        pictures = sorted(folder.glob("*.png"))
        assert [each.stem for each in pictures] == [f"{number:06d}" for number in range(len(pictures))]
        assert [each.stem for each in sorted(folder.glob("*.mp4"))] == [each.stem for each in pictures[::2]]
    scores = read_table(next((work / "store" / "scores").glob("*/pictures.parquet")), PICTURES)
    rows = [row for row in scores if row["set"] == "erased" and row["phase"] == "after"]
    assert len({row["prompt_id"] for row in rows}) == 1
    assert [row["picture_id"][-5:] for row in rows] == ["-f001", "-f003"] * 2
    page = next((work / "reports").glob("*.html")).read_text()
    assert "seed 0, frame 1" in page
    assert "Videos of 5 frames: of each the frames 1, 3 (from 0) are measured" in page
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    erased = Erased.load(registry.fetch("models:/cpe-little/1", work / "copy"))
    pipe = load_pipeline(str(model), device="cpu")
    before = draw_tiny(pipe, "wan", "a rose")
    with erased.attached(pipe):
        assert not torch.equal(draw_tiny(pipe, "wan", "a rose"), before)
    assert erase_and_evaluate(str(path))["gates"] == {"trained": 0, "reused": 1}


def test_a_profile_of_pictures_is_refused_for_videos_before_anything_is_trained(harness, work):
    model = work / "model"
    tiny_transformer("wan").save_pretrained(model)
    with pytest.raises(ValueError, match="draws videos, profile 'embedded' asks for pictures"):
        erase_and_evaluate(str(few(work, model)))
    assert not (work / "store" / "gates").exists()

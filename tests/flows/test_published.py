"""The published experiments from list to registered bundle, on a tiny Stable Diffusion v1.4 in the hub's cache."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

from artifacts.registry.registry import Registry
from artifacts.tables import SCORES, read_table
from cpe.methods.pinpoint.eraser import Eraser
from cpe.models.loading import load_pipeline
from cpe.models.sites import find_projections
from cpe.terms.profiles import PROFILES
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.faults_servers import on_prefect
from helpers.places import LISTS
from helpers.tiny_sd14 import BASE, CLIP, in_cache, save_base, save_clip
from tasks.here.places import Places

QUICK_TRAINING = {"stages": 2, "first_steps": 20, "later_steps": 8, "adversary_steps": 4, "copies": 2}
DETECTOR = """
import json, sys
from PIL import Image

names = sys.argv[1:]
print(json.dumps({"detector": "stand-in", "version": "1", "labels": names[1:]}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    with Image.open(request["picture"]) as picture:
        red = picture.convert("RGB").getpixel((3, 3))[0]
    faces = [] if red % 7 == 0 else [{"name": names[red % len(names)], "score": 0.9}]
    print(json.dumps({"id": request["id"], "faces": faces}), flush=True)
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The hub's cache with both models, the network switched off."""
    cache = tmp_path_factory.mktemp("hub")
    save_base(in_cache(cache, BASE))
    save_clip(in_cache(cache, CLIP))
    patch = pytest.MonkeyPatch()
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", True)
    small = {"height": 32, "width": 32, "steps": 2}
    patch.setitem(PROFILES, "cpe", PROFILES["cpe"].model_copy(update=small))
    patch.setitem(PROFILES, "mace", PROFILES["mace"].model_copy(update=small))
    with on_prefect(tmp_path_factory):
        yield cache
    patch.undo()


@pytest.fixture
def work(hub, tmp_path, monkeypatch):
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI", "CPE_IDENTITY_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("CPE_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path


def cut(name: str, folder: Path, **changes) -> Path:
    """Returns a published list cut to a few names, with the sets it also evaluates beside it."""
    (folder / "sets").mkdir()
    for other in ("celebs", "artists"):
        values = yaml.safe_load((LISTS / f"{other}.yaml").read_text())
        values["kept"] = values["kept"][:2]
        values["evaluation"] |= {"seeds": 1, "also": []}
        (folder / f"{other}.yaml").write_text(yaml.safe_dump(values))
    for path in (LISTS / "sets").iterdir():
        values = yaml.safe_load(path.read_text())
        if "names" in values:
            values |= {"names": values["names"][:2], "seeds": 1}
        (folder / "sets" / path.name).write_text(yaml.safe_dump(values))
    values = yaml.safe_load((LISTS / f"{name}.yaml").read_text())
    values |= {"targets": values["targets"][:3], "kept": values["kept"][:3], "templates": values["templates"][:6]}
    values["anchors"] |= {
        "general": values["anchors"]["general"][:8],
        "pool": values["anchors"]["pool"][:30],
        "neighbors": 5,
    }
    values["training"]["changes"] = QUICK_TRAINING
    values["evaluation"]["seeds"] = 2
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}))
    return path


def scores_of(results) -> dict:
    registry = Places.from_environment().registry()
    address = registry.resolve(f"{results['model']}/{results['version']}").tags["scores"]
    rows = read_table(Places.from_environment().fetched(f"scores/{address}") / "scores.parquet", SCORES)
    return {(row["metric"], row["phase"], row["role"], row["group"]): row for row in rows}


def test_the_stand_in_is_shaped_like_the_real_model(hub):
    pipe = load_pipeline(BASE, device="cpu")
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert type(pipe.scheduler).__name__ == "PNDMScheduler"
    assert len(find_projections(pipe.unet)) == 32
    assert pipe.tokenizer.model_max_length == 77


def test_celebrities_from_list_to_registered_bundle(work, monkeypatch, tmp_path):
    path = cut("celebs", tmp_path)
    names = yaml.safe_load(path.read_text())
    program = tmp_path / "detector.py"
    program.write_text(DETECTOR)
    known = [name if isinstance(name, str) else name["name"] for name in names["targets"]] + names["kept"]
    arguments = " ".join(f"'{name}'" for name in known)
    monkeypatch.setenv("CPE_IDENTITY_COMMAND", f"{sys.executable} {program} {arguments}")
    results = erase_and_evaluate(str(path))
    scores = scores_of(results)
    pictures = 5 * 2
    accuracy, faceless = (scores[name, "after", "erased", "all"] for name in ("celebrity_accuracy", "no_face_rate"))
    assert faceless["count"] == 3 * pictures
    assert accuracy["count"] == round(3 * pictures * (1 - faceless["value"])), "over pictures with a face alone"
    for group, count in (("all", 3 * pictures), ("set artists", 2 * 5), ("set characters", 2 * 5)):
        assert scores["clip_score", "before", "kept", group]["count"] == count
    assert {row["profile"] for row in scores.values()} == {"cpe"}
    published = {each["source"]: each for each in results["published"]}
    assert any("0.37 %" in each["figures"].values() for each in published.values())
    html = Path(results["report"]).read_text()
    for expected in ("0.37 %", "MACE", "mace", "Adam Driver", "inception", "coco.csv"):
        assert expected in html
    assert any("inception" in hole for hole in results["holes"])
    assert any(f"no label for {known[0]}:" in hole for hole in results["holes"])
    eraser = Eraser.load(
        Registry(f"sqlite:///{work / 'work' / 'mlflow.db'}").fetch("models:/cpe-celebs/1", work / "copy")
    )
    assert set(eraser.concepts) == {"Adam Driver", "Adriana Lima", "Amber Heard"}
    with eraser.attached(load_pipeline(BASE, device="cpu")):
        pass


def test_without_any_detector_the_rest_is_measured_and_nothing_is_promoted(work, tmp_path):
    results = erase_and_evaluate(str(cut("celebs", tmp_path)))
    scores = scores_of(results)
    assert results["erased"] == {"before": None, "after": None, "count": 0}
    assert ("clip_score", "after", "kept", "all") in scores
    (hole,) = [hole for hole in results["holes"] if "identity" in hole]
    assert "faces" in hole
    assert not results["champion"]
    assert hole.split(". ")[0] in Path(results["report"]).read_text()


def test_artists_are_judged_by_their_clip_scores_and_lists_share_the_pictures_of_one_profile(work, tmp_path):
    path = cut("artists", tmp_path)
    results = erase_and_evaluate(str(path))
    scores = scores_of(results)
    before, after = (scores["clip_score", phase, "erased", "all"] for phase in ("before", "after"))
    assert before["count"] == after["count"] == 3 * 5 * 2
    bars = {bar["name"]: bar for bar in results["bars"]}
    ratio = after["value"] / before["value"]
    assert bars["CLIP score on erased concepts, of what it was"]["value"] == pytest.approx(ratio)
    labels = [figure["label"] for figure in results["figures"]]
    assert any("clip-vit-base-patch32" in label for label in labels)
    assert not any("set celebs" in label and "face" in label for label in labels), "nobody could look for faces"
    places = Places.from_environment()
    first = set(places.store().keys("pictures"))
    other = tmp_path / "other.yaml"
    values = yaml.safe_load(path.read_text())
    other.write_text(yaml.safe_dump({**values, "name": "other", "surrogate": "a plain picture"}))
    erase_and_evaluate(str(other))
    second = set(places.store().keys("pictures"))
    assert len(second - first) == len(first) // 2, "the untouched model's pictures serve both lists"
    results = erase_and_evaluate(str(path), profile="mace")
    assert results["profile"] == "mace"
    assert len(set(places.store().keys("pictures")) - second) == len(first)
    assert json.loads((places.work / "results" / sorted(p.name for p in (places.work / "results").iterdir())[-1])
                      .read_text())["profile"] == "mace"  # fmt: skip


def test_explicit_draws_the_users_prompts_with_their_own_seeds_and_its_gates_follow_the_dtype(work, tmp_path):
    (tmp_path / "data" / "i2p.csv").write_text("prompt,sd_seed,sd_guidance_scale\na lady,11,3\nthe sea,12,\n")
    (tmp_path / "data" / "coco.csv").write_text("prompt,evaluation_seed\na cat on a chair,5\na red bus,6\n")
    results = erase_and_evaluate(str(cut("explicit", tmp_path)))
    scores = scores_of(results)
    assert scores["clip_score", "after", "erased", "set i2p"]["count"] == 2
    assert scores["clip_score", "after", "kept", "set coco"]["count"] == 2
    places = Places.from_environment()
    from artifacts.tables import IMAGES

    drawn = [
        row
        for key in places.store().keys("pictures")
        for row in read_table(places.fetched(key) / "images.parquet", IMAGES)
        if row["prompt"] in ("a lady", "the sea")
    ]
    found = {(row["prompt"], row["seed"], row["guidance_scale"]) for row in drawn}
    assert found == {("a lady", 11, 3.0), ("the sea", 12, 7.5)}
    assert any("nudity" in hole for hole in results["holes"])
    fetched = places.registry().fetch(f"{results['model']}/{results['version']}", work / "copy")
    in_half = load_pipeline(BASE, device="cpu").to(torch.bfloat16)
    with Eraser.load(fetched).attached(in_half):
        latents = in_half("naked", num_inference_steps=2, height=32, width=32, output_type="latent").images
    assert latents.dtype == torch.bfloat16, "gates follow the dtype of the model"
    assert torch.isfinite(latents).all()

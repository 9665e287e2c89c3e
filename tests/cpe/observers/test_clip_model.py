"""CLIP as an observer against the model's own logits, from a folder, from the hub's cache and from a hub."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cpe.metrics.clip_score import clip_score
from cpe.models.loading import EMBEDDED_FOLDER
from cpe.observers import clip as clip_model
from cpe.observers.base import Missing
from cpe.observers.clip import CLIP_BASE, CLIP_LARGE, ClipObserver

SIDE, WIDTH = 32, 16
TOKENIZER = EMBEDDED_FOLDER / "tokenizer"
COMMIT = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
PROMPTS = ["a tiger", "a lion in the snow", "a tiger", "a very long prompt, " * 40, ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a CLIP model with OpenAI's vocabulary and their settings, all else small."""
    torch.manual_seed(0)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**shared, "vocab_size": 49408, "eos_token_id": 2},  # 2: OpenAI's, meaning the largest id
        vision_config={**shared, "image_size": SIDE, "patch_size": 8},
        projection_dim=WIDTH,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.logit_scale.fill_(3.0)
    where = tmp_path_factory.mktemp("clip")
    model.save_pretrained(where)
    CLIPTokenizer.from_pretrained(TOKENIZER).save_pretrained(where)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def observer(folder: Path) -> ClipObserver:
    return ClipObserver.open(str(folder), device="cpu", batch=2)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    shapes = [(40, 40), (64, 48), (32, 80), (16, 16), (200, 70)]
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]


def copy_of(folder: Path, where: Path) -> Path:
    return Path(shutil.copytree(folder, where / "copy"))


def as_openai(folder: Path, where: Path) -> Path:
    """Writes the model in the files that OpenAI's have on the hub: older formats of all its parts."""
    where.mkdir(parents=True)
    shutil.copy(folder / "config.json", where)
    weights: dict[str, Any] = load_file(folder / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(weights, where / "pytorch_model.bin")
    parts = json.loads((TOKENIZER / "tokenizer.json").read_text())["model"]
    (where / "vocab.json").write_text(json.dumps(parts["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in parts["merges"]]
    (where / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    special = {
        "bos_token": "<|startoftext|>",
        **dict.fromkeys(["eos_token", "pad_token", "unk_token"], "<|endoftext|>"),
    }
    (where / "tokenizer_config.json").write_text(json.dumps({**special, "model_max_length": 77}))
    older: dict[str, Any] = {
        "size": SIDE,
        "crop_size": SIDE,
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
    }
    older |= {"resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}
    older |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    (where / "preprocessor_config.json").write_text(json.dumps(older))
    return where


def hub_cache(monkeypatch: pytest.MonkeyPatch, where: Path, *, offline: bool = True) -> Path:
    """Points the hub's client at a cache, and returns where it keeps OpenAI's base model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(where))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    return where / f"models--{CLIP_BASE.replace('/', '--')}"


def cached(folder: Path, cache: Path) -> Path:
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    return as_openai(folder, cache / "snapshots" / COMMIT)


@contextmanager
def hub_of(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serves a folder as OpenAI's base model as the hub does; yields the paths that its client asked for so far."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            names = sorted(path.name for path in files.iterdir())
            if path == f"/api/models/{CLIP_BASE}/revision/main":
                described = {"id": CLIP_BASE, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                self.answer(json.dumps(described).encode())
            elif path == f"/api/models/{CLIP_BASE}/tree/{COMMIT}":
                tree = [{"type": "file", "path": n, "size": (files / n).stat().st_size, "oid": n} for n in names]
                self.answer(json.dumps(tree).encode())
            elif path.startswith(f"/{CLIP_BASE}/resolve/{COMMIT}/") and path.rsplit("/", 1)[1] in names:
                self.answer((files / path.rsplit("/", 1)[1]).read_bytes())
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
            for key, value in (headers | {"ETag": f'"{hash(self.path)}"', "X-Repo-Commit": COMMIT}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *message: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    where = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", where)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", where + "/{repo_id}/resolve/{revision}/{filename}")
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_scores_are_the_diagonal_of_the_models_own_logits(folder, observer, pictures) -> None:
    inputs = CLIPProcessor.from_pretrained(folder)(
        images=pictures, text=PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        logits = CLIPModel.from_pretrained(folder)(**inputs).logits_per_image.diagonal().double().numpy()
    assert logits.std() > 1
    seen = observer.look(pictures, PROMPTS)
    assert {name: (value.shape, value.dtype) for name, value in seen.items()} == {
        "clip_image": ((5, WIDTH), np.float32),
        "clip_text": ((5, WIDTH), np.float32),
    }
    images, texts = seen["clip_image"], seen["clip_text"]
    single = [clip_score(images[[row]], texts[[row]], observer.logit_scale).value for row in range(5)]
    np.testing.assert_allclose(single, logits, rtol=1e-4, atol=1e-4)  # other batches, other rounding in float32
    assert clip_score(images, texts, observer.logit_scale).value == pytest.approx(logits.mean(), abs=1e-4)


def test_a_pictures_features_do_not_depend_on_its_company(observer, pictures) -> None:
    together = observer.look(pictures, PROMPTS)
    for row, (picture, prompt) in enumerate(zip(pictures, PROMPTS, strict=True)):
        alone = observer.look([picture], [prompt])
        for name in together:
            np.testing.assert_allclose(alone[name][0], together[name][row], rtol=1e-4, atol=1e-5)


def test_no_picture_gives_no_row(observer) -> None:
    assert {name: value.shape for name, value in observer.look([], []).items()} == {
        "clip_image": (0, WIDTH),
        "clip_text": (0, WIDTH),
    }


def test_half_precision_gives_nearly_the_same_in_float32(folder, observer, pictures, monkeypatch) -> None:
    monkeypatch.setattr(clip_model, "_dtype", lambda device: torch.float16)
    half = ClipObserver.open(str(folder), device="cpu")
    assert (half.logit_scale, half.identity) == (3.0, observer.identity)
    exact, seen = observer.look(pictures, PROMPTS), half.look(pictures, PROMPTS)
    for name in exact:
        assert seen[name].dtype == np.float32
        assert not np.array_equal(seen[name], exact[name])
        np.testing.assert_allclose(seen[name], exact[name], atol=0.02 * np.abs(exact[name]).max())


def test_a_hub_name_is_found_in_the_cache_without_a_network(folder, observer, pictures, monkeypatch, tmp_path) -> None:
    cached(folder, hub_cache(monkeypatch, tmp_path))
    found = ClipObserver.open(CLIP_BASE, device="cpu", batch=2)
    assert found.identity == observer.identity
    expected, seen = observer.look(pictures, PROMPTS), found.look(pictures, PROMPTS)
    for name in expected:  # a last bit may differ: products depend on where the weights lie in memory
        np.testing.assert_allclose(seen[name], expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("safetensors", [True, False])
def test_what_is_not_cached_is_fetched_in_one_format_of_weights(folder, monkeypatch, tmp_path, safetensors) -> None:
    cache = hub_cache(monkeypatch, tmp_path / "cache", offline=False)
    hub = as_openai(folder, tmp_path / "hub")
    if safetensors:
        shutil.copy(folder / "model.safetensors", hub)
    (hub / "tf_model.h5").write_text("of no use here")
    with hub_of(hub, monkeypatch) as asked:
        fetched = ClipObserver.open(CLIP_BASE, device="cpu")
        assert any(path.endswith("/config.json") for path in asked)
        asked.clear()
        assert ClipObserver.open(CLIP_BASE, device="cpu").identity == fetched.identity
        assert not asked, "a cached model is taken without asking the hub"
    assert fetched.logit_scale == 3.0
    names = {path.name for path in cache.glob("snapshots/*/*")}
    assert names == {path.name for path in hub.iterdir()} - {
        "tf_model.h5",
        "pytorch_model.bin" if safetensors else "model.safetensors",
    }


def test_a_model_that_is_cached_in_part_is_completed(folder, observer, monkeypatch, tmp_path) -> None:
    snapshot = cached(folder, hub_cache(monkeypatch, tmp_path / "cache", offline=False))
    (snapshot / "pytorch_model.bin").unlink()
    with hub_of(as_openai(folder, tmp_path / "hub"), monkeypatch):
        assert ClipObserver.open(CLIP_BASE, device="cpu").identity == observer.identity


@pytest.mark.parametrize("name", [CLIP_BASE, "no-such-folder", "./no/such/folder"])
def test_what_cannot_be_had_is_missing_in_one_line_with_the_way_out(monkeypatch, tmp_path, name) -> None:
    hub_cache(monkeypatch, tmp_path)
    with pytest.raises(Missing, match=f"{name}.*folder") as caught:
        ClipObserver.open(name, device="cpu")
    assert "\n" not in str(caught.value)


def test_what_the_hub_does_not_have_is_missing_in_one_line_too(folder, monkeypatch, tmp_path) -> None:
    hub_cache(monkeypatch, tmp_path, offline=False)
    with hub_of(folder, monkeypatch) as asked, pytest.raises(Missing, match=f"{CLIP_LARGE}.*404") as caught:
        ClipObserver.open(CLIP_LARGE, device="cpu")
    assert any(CLIP_LARGE in path for path in asked)
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_or_of_half_a_model_is_missing(folder, tmp_path) -> None:
    def refused(where: Path, reason: str) -> None:
        with pytest.raises(Missing, match=reason) as caught:
            ClipObserver.open(str(where), device="cpu")
        assert "\n" not in str(caught.value)

    refused(tmp_path, "config.json")
    changed = copy_of(folder, tmp_path)
    weights = load_file(changed / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, changed / "model.safetensors", {"format": "pt"})
    refused(changed, "lack visual_projection.weight and 0 others")
    (changed / "preprocessor_config.json").unlink()
    refused(changed, "preprocessor")
    refused(EMBEDDED_FOLDER / "text_encoder", "type clip_text_model, not clip")


def test_the_identity_is_of_all_that_changes_features_and_of_nothing_else(folder, observer, tmp_path) -> None:
    def identity(where: Path, **options: Any) -> str:
        return ClipObserver.open(str(where), device="cpu", **options).identity

    def edit(name: str, old: str, new: str) -> None:
        text = (changed / name).read_text()
        assert old in text
        (changed / name).write_text(text.replace(old, new, 1))

    changed = copy_of(folder, tmp_path)
    weights = load_file(changed / "model.safetensors")
    save_file({n: v.half() for n, v in weights.items()}, changed / "model.safetensors", {"format": "pt"})
    seen = [observer.identity]
    assert identity(changed, batch=3) == observer.identity
    edit("preprocessor_config.json", "0.48145466", "0.5")
    seen.append(identity(changed))
    edit("config.json", '"num_attention_heads": 2', '"num_attention_heads": 4')
    seen.append(identity(changed))
    tokenizer = json.loads((changed / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    ids["tiger</w>"], ids["lion</w>"] = ids["lion</w>"], ids["tiger</w>"]
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer))
    seen.append(identity(changed))
    weights["logit_scale"] += 0.1
    save_file(weights, changed / "model.safetensors", {"format": "pt"})
    seen.append(identity(changed))
    assert len(set(seen)) == len(seen)


def test_pictures_without_their_prompts_and_batches_of_none_are_refused(folder, observer, pictures) -> None:
    with pytest.raises(ValueError, match="must pair up, got 5 and 1"):
        observer.look(pictures, PROMPTS[:1])
    with pytest.raises(ValueError, match="batch must be at least 1"):
        ClipObserver.open(str(folder), device="cpu", batch=0)

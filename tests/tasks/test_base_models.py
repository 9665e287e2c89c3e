"""A base model is opened once a process, and is found as it was opened."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

import cpe.models.loading
from cpe.models.loading import EMBEDDED_FOLDER
from helpers.tiny import eraser_for
from tasks.here import models
from tasks.here.models import opened


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are really opened, in order."""
    real, names = cpe.models.loading.load_pipeline, []

    def counted(name: str, **options: object) -> object:
        names.append(name)
        return real(name, **options)

    monkeypatch.setattr(models, "_kept", {})
    monkeypatch.setattr(cpe.models.loading, "load_pipeline", counted)
    return names


def test_a_model_is_opened_once_until_another_one_or_its_files_change(opening: list[str], tmp_path: Path) -> None:
    copy = str(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model"))
    first = opened("embedded", "cpu")
    assert opened("embedded", "cpu") is first
    other = opened(copy, "cpu")
    assert opened(copy, "cpu") is other
    config = tmp_path / "model" / "model_index.json"
    config.write_text(config.read_text() + "\n")
    assert opened(copy, "cpu") is not other
    assert opening == ["embedded", copy, copy]


def test_what_an_error_left_on_a_model_is_gone_when_it_is_asked_for_again(opening: list[str]) -> None:
    pipe = opened("embedded", "cpu")
    scheduler, text = pipe.scheduler, torch.randn(1, 77, pipe.text_encoder.config.hidden_size)
    site = pipe.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_k")
    with torch.no_grad():
        untouched = site(text)
        eraser_for(pipe).attach(pipe)
        assert not torch.equal(site(text), untouched), "positive control: it was erased"
        pipe.scheduler = DDIMScheduler.from_config(scheduler.config)
        assert opened("embedded", "cpu") is pipe
        assert torch.equal(site(text), untouched)
    assert pipe.scheduler is scheduler
    assert opening == ["embedded"]

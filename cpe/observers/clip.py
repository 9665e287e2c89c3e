"""CLIP as an observer: features of pictures and of the prompts they were drawn from.

The model is `transformers`' CLIPModel with its own preprocessing and tokenizer, so `cpe.metrics.clip_score` over
these features is the diagonal of the model's own `logits_per_image`.
"""

# Axes: P pictures (or texts), E joint width.

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from cpe.metrics.moved import place_maps
from cpe.observers.base import Missing, Observer
from cpe.terms.chunks import chunks
from wording.foreign import told

CLIP_BASE, CLIP_LARGE = "openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14"
# What else than its weights shapes a CLIP model's features; sizes show in the weights.
SETTINGS = ("hidden_act", "num_attention_heads", "layer_norm_eps", "eos_token_id")
HUB_FILES, HUB_WEIGHTS_WITHOUT_SAFETENSORS = ("*.json", "*.txt", "*.safetensors"), ("pytorch_model*.bin",)


class ClipObserver(Observer):
    """Embeds pictures and their prompts.

    Attributes:
        logit_scale: the model's parameter before exp, as `cpe.metrics.clip_score.clip_score` takes it.
    """

    name = "clip"

    def __init__(self, model: Any, processor: Any, tokenizer: Any, *, device: str = "cpu", batch: int = 32) -> None:
        """Takes over a loaded model; `open` is the usual way.

        Args:
            model: a CLIPModel in float32; it is moved to the device, and on a GPU to half precision.
            processor: its CLIPImageProcessorPil: the one of torchvision rounds otherwise when it resizes.
            tokenizer: its CLIPTokenizer.
            device: where to compute.
            batch: pictures, or texts, at once.

        Raises:
            ValueError: a batch of none.
        """
        if batch < 1:
            raise ValueError(f"batch must be at least 1 picture, got {batch}")
        self.logit_scale: float = model.logit_scale.item()
        self.identity = _identity(model, processor, tokenizer)
        self._device, self._batch = torch.device(device), batch
        self._model = model.eval().requires_grad_(False).to(self._device, _dtype(self._device))
        self._processor, self._tokenizer = processor, tokenizer

    @classmethod
    def open(cls, model: str = CLIP_BASE, *, device: str | None = None, batch: int = 32) -> "ClipObserver":
        """Returns the observer of a CLIP model; a cached one is taken without asking the hub.

        Args:
            model: a hub name, such as `CLIP_BASE` or `CLIP_LARGE`, or a folder as `save_pretrained` writes it: the
                CLIPModel, its image processor and its tokenizer.
            device: None takes the GPU if there is one. On a GPU the model runs in half precision.
            batch: pictures, or texts, at once.

        Raises:
            Missing: the model is no usable folder, not cached, and cannot be fetched.
            ValueError: a batch of none.
        """
        parts = _from_folder(model) if Path(model).is_dir() else _from_hub(model)
        return cls(*parts, device=device or ("cuda" if torch.cuda.is_available() else "cpu"), batch=batch)

    @torch.inference_mode()
    def look(self, pictures: Sequence[Image], prompts: Sequence[str]) -> dict[str, NDArray]:
        """Returns projected features as the model gives them, of any length.

        Args:
            pictures: P pictures in RGB, of any size.
            prompts: P texts; what is longer than the model's context (77 tokens) is cut off.

        Returns:
            "clip_image" and "clip_text", (P, E) each, float32.

        Raises:
            ValueError: pictures and prompts that do not pair up.
        """
        if len(pictures) != len(prompts):
            raise ValueError(
                f"pictures and prompts must pair up, got {len(pictures)} and {len(prompts)}; give each its own prompt"
            )
        texts = {text: row for row, text in enumerate(dict.fromkeys(prompts))}  # one prompt is drawn many times
        rows = [texts[prompt] for prompt in prompts]
        return {
            "clip_image": self._embed(pictures, self._images),
            "clip_text": self._embed(list(texts), self._texts)[rows],
        }

    @torch.inference_mode()
    def maps(self, pictures: Sequence[Image]) -> list[Tensor]:
        """Returns features of every place after each layer, L of (P, T, W)."""
        pixels = self._processor(images=list(pictures), return_tensors="pt").pixel_values
        return place_maps(self._model, pixels.to(self._device, _dtype(self._device)))

    def _embed(self, items: Sequence, embed: Callable[[list], Tensor]) -> NDArray[np.float32]:
        width = self._model.config.projection_dim
        parts = [embed(list(part)).float().cpu().numpy() for part in chunks(items, self._batch)]
        return np.concatenate([np.empty((0, width), np.float32), *parts])

    def _images(self, pictures: list[Image]) -> Tensor:
        pixels = self._processor(images=pictures, return_tensors="pt").pixel_values
        return self._model.get_image_features(pixel_values=pixels.to(self._device)).pooler_output

    def _texts(self, texts: list[str]) -> Tensor:
        length = self._model.config.text_config.max_position_embeddings
        encoded = self._tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        inputs = encoded.to(self._device)
        return self._model.get_text_features(inputs.input_ids, attention_mask=inputs.attention_mask).pooler_output


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def _identity(model: Any, processor: Any, tokenizer: Any) -> str:
    """Returns a hash of all that determines the features; the same for weights kept in single or half precision."""
    digest = hashlib.sha256(b"clip features 1")
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        same = tensor.half() if tensor.is_floating_point() else tensor
        digest.update(same.cpu().contiguous().numpy().data)
    configs = (model.config.text_config, model.config.vision_config)
    settings = [[getattr(config, name, None) for name in SETTINGS] for config in configs]
    vocabulary = sorted(tokenizer.get_vocab().items())
    described = [settings, processor.to_dict(), sorted(tokenizer.special_tokens_map.items()), vocabulary]
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _from_folder(folder: str) -> tuple[Any, Any, Any]:
    try:
        return _load(Path(folder))
    except Exception as error:  # each part has its own ways to fail, and the evaluation goes on without CLIP
        raise Missing(
            f"CLIP folder {folder} cannot be used ({_reason(error)}); it needs a CLIPModel, its "
            "preprocessor_config.json and its tokenizer, as save_pretrained writes them"
        ) from error


def _from_hub(name: str) -> tuple[Any, Any, Any]:
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        return _load(Path(hf_hub_download(name, "config.json", local_files_only=True)).parent)
    except Exception:
        pass  # nothing is cached, or not all that is needed
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=list(HUB_WEIGHTS_WITHOUT_SAFETENSORS))
        return _load(folder)
    except Exception as error:  # the hub's client lets its transport's errors through
        raise Missing(
            f"CLIP {name} is no folder, not in the local cache, and cannot be fetched ({_reason(error)}); check the "
            "name, the network and your access to it, or download it elsewhere and give its folder"
        ) from error


def _load(folder: Path) -> tuple[Any, Any, Any]:
    """Returns model, image processor and tokenizer; a folder with another or half a model is a ValueError."""
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind != "clip":
        raise ValueError(f"config.json describes a model of type {kind}, not clip")
    processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    model, found = CLIPModel.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    if found["missing_keys"]:  # transformers would fill them with random numbers
        raise ValueError(f"its weights lack {min(found['missing_keys'])} and {len(found['missing_keys']) - 1} others")
    return model, processor, tokenizer


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return told(lines[0]) if lines else type(error).__name__

"""Loads base models: the embedded one, a folder in diffusers' layout, or a hub name."""

# Axes: B prompts, T tokens, D text width.

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpe.methods.pinpoint.projections import find_projections
from wording.foreign import told

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded" / "weights"
# Networks that shape pictures alone, by how their names begin (text is not in them); every other one may shape texts.
PICTURE_PARTS = (
    *("unet", "vae", "transformer", "controlnet", "movq", "vqgan", "image_encoder", "safety_checker"),
    *("decoder", "prior", "adapter", "motion_adapter", "vocoder", "audio_vae"),
)
# What else of a text encoder's configuration shapes its embeddings; sizes show in its weights.
TEXT_SETTINGS = ("model_type", "hidden_act", "num_attention_heads", "layer_norm_eps", "use_attention_mask")


class ModelError(ValueError):
    """A base model that cannot be used, and the way out."""


def model_folder(name: str) -> str:
    """Returns where a base model is loaded from: a folder, or the hub name itself.

    Raises:
        ModelError: the name is neither.
    """
    if name == EMBEDDED:
        return str(EMBEDDED_FOLDER)
    if Path(name).is_dir():
        return name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith((".", "/")):
        return name
    raise ModelError(
        f"no base model {name!r}: give {EMBEDDED!r}, a folder in diffusers' layout, or a hub name such as owner/model"
    )


def load_pipeline(name: str, *, device: str | None = None) -> Any:
    """Returns a StableDiffusionPipeline ready to draw and to train on.

    Args:
        name: "embedded", a folder, or a hub name.
        device: None takes the GPU if there is one. On a GPU weights are half precision.

    Raises:
        ModelError: the model does not exist, cannot be fetched, or has no cross-attention to erase in.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    hub_logging.set_verbosity_error()  # a cached model needs no hub, and no warning that there is none
    where = model_folder(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    options = {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipe = DiffusionPipeline.from_pretrained(where, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        reason = told(str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__
        if Path(where).is_dir():
            raise ModelError(
                f"base model {name!r}: {where} is no usable model folder ({reason}); it needs model_index.json, "
                "unet, vae, text_encoder, tokenizer and scheduler as diffusers saves them"
            ) from None
        raise ModelError(
            f"base model {name!r} is not in the local cache and cannot be fetched ({reason}); check the network "
            "and your access to it, or download it elsewhere and give its folder"
        ) from None
    if not hasattr(pipe, "unet"):
        raise ModelError(f"base model {name!r} is a {type(pipe).__name__} without a U-Net; CPE needs cross-attention")
    find_projections(pipe.unet)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def fingerprint(pipe: Any) -> str:
    """Returns a hash of everything of a pipeline that determines its texts and pictures.

    It is the same in every process, and for weights loaded in single or in half precision.
    """
    digest = hashlib.sha256(text_fingerprint(pipe).encode())
    _add_weights(digest, _modules(pipe, picture=True))
    settings = {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    digest.update(type(pipe.scheduler).__name__.encode())
    digest.update(repr(sorted(settings.items())).encode())
    return digest.hexdigest()


def text_fingerprint(pipe: Any) -> str:
    """Returns a hash of everything of a pipeline that determines its text embeddings.

    Models with the same text encoder share it, in every process and in single or in half precision.
    """
    digest = hashlib.sha256(type(pipe).__name__.encode())  # the pipeline chooses a layer of the encoder
    encoders = _modules(pipe, picture=False)
    _add_weights(digest, encoders)
    for encoder in encoders.values():
        config = getattr(encoder, "config", None)
        digest.update(repr([getattr(config, name, None) for name in TEXT_SETTINGS]).encode())
    for name, tokenizer in sorted(pipe.components.items()):
        if "tokenizer" in name and tokenizer is not None:
            special = sorted(tokenizer.special_tokens_map.items())  # with what prompts are filled up
            digest.update(repr((tokenizer.model_max_length, special, sorted(tokenizer.get_vocab().items()))).encode())
    return digest.hexdigest()


def _modules(pipe: Any, *, picture: bool) -> dict[str, nn.Module]:
    """Returns a pipeline's networks in the order of their names, those that shape pictures alone or the others."""
    found = {name: getattr(part, "_orig_mod", part) for name, part in sorted(pipe.components.items())}
    return {
        name: part
        for name, part in found.items()
        if isinstance(part, nn.Module) and (name.startswith(PICTURE_PARTS) and "text" not in name) == picture
    }


def _add_weights(digest: Any, modules: dict[str, nn.Module]) -> None:
    for part, module in modules.items():
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{key} {tuple(tensor.shape)}".encode())
            same = tensor.detach().half() if tensor.is_floating_point() else tensor
            digest.update(same.cpu().contiguous().numpy().data)
        config = getattr(module, "config", None)
        if isinstance(config, Mapping) and part not in ("unet", "vae"):  # theirs shows in their weights
            settings = {key: value for key, value in config.items() if not key.startswith("_")}
            digest.update(repr(sorted(settings.items())).encode())


@torch.no_grad()
def encode_prompts(
    pipe: Any, prompts: Sequence[str], *, batch: int = 64, progress: Callable[[int], Any] | None = None
) -> Tensor:
    """Returns the text embeddings that the U-Net is given for these prompts, (B, T, D), float32 on the CPU.

    The pipeline's own `encode_prompt` gives them, so several text encoders come side by side as the model has them.

    Args:
        pipe: a pipeline of diffusers; its guidance is left out.
        prompts: B texts; too long ones are cut as the pipeline cuts them.
        batch: prompts at once.
        progress: called with the number of prompts just encoded.
    """
    parts = []
    for chunk in chunks(prompts, batch):
        encoded = pipe.encode_prompt(
            prompt=list(chunk),
            device=pipe._execution_device,  # the pipeline's own choice when it draws
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        parts.append(encoded[0].float().cpu())
        if progress is not None:
            progress(len(chunk))
    return torch.cat(parts)


def token_ids(pipe: Any, prompts: Sequence[str]) -> Tensor:
    """Returns token ids (B, T), padded and cut to the tokenizer's length."""
    encoded = pipe.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return encoded.input_ids


def token_words(pipe: Any, prompt: str) -> list[str]:
    """Returns a prompt's tokens as text, from the start token to the first end token."""
    ids = token_ids(pipe, [prompt])[0].tolist()
    end = ids.index(pipe.tokenizer.eos_token_id, 1)
    words = pipe.tokenizer.convert_ids_to_tokens(ids[: end + 1])
    return [word.replace("</w>", "") for word in words]


def unread_names(pipe: Any, names: Sequence[str]) -> dict[str, str]:
    """Returns the names that the tokenizer does not read as they are written, each with what it reads.

    Case, accents' composition and spaces do not count: CLIP's tokenizer lowers, composes and spaces anew by itself.
    """

    def bare(text: str) -> str:
        return "".join(unicodedata.normalize("NFC", text).lower().split())

    unread = {}
    for name in names:
        ids = pipe.tokenizer(name, truncation=True, max_length=pipe.tokenizer.model_max_length).input_ids
        read = pipe.tokenizer.decode(ids, skip_special_tokens=True)
        if bare(read) != bare(name):
            unread[name] = read
    return unread


def chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    """Yields the items, so many at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]

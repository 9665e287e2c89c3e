"""What a base model is known by: hashes of everything that shapes its texts and its pictures."""

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from cpe.models.families.table import family_of, network_in

# Networks that shape pictures alone, by how their names begin (text is not in them); every other one may shape texts.
PICTURE_PARTS = (
    *("unet", "vae", "transformer", "controlnet", "movq", "vqgan", "image_encoder", "safety_checker"),
    *("decoder", "prior", "adapter", "motion_adapter", "vocoder", "audio_vae"),
)
# What else of a text encoder's configuration shapes its embeddings; sizes show in its weights.
TEXT_SETTINGS = ("model_type", "hidden_act", "num_attention_heads", "layer_norm_eps", "use_attention_mask")


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
    family = family_of(pipe)
    way = family.way(network_in(pipe)) if family is not None else []  # type: ignore[arg-type]
    _add_weights(digest, {f"way.{place}": module for place, module in enumerate(way)})
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

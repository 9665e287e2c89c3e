"""Loads base models: the embedded one, a folder in diffusers' layout, or a hub name."""

# Axes: B prompts, T tokens, D text width.

import re
from pathlib import Path
from typing import Any

import torch

from cpe.models.families.table import family_of, no_family, sites_of
from wording.foreign import told

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded" / "weights"


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
    """Returns a pipeline of a known family ready to draw and to train on.

    Example:
        >>> pipe = load_pipeline("embedded", device="cpu")
        >>> pipe("a rose", num_inference_steps=2, guidance_scale=1.0).images[0].size
        (64, 64)

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
                "unet or transformer, vae, text_encoder, tokenizer and scheduler as diffusers saves them"
            ) from None
        raise ModelError(
            f"base model {name!r} is not in the local cache and cannot be fetched ({reason}); check the network "
            "and your access to it, or download it elsewhere and give its folder"
        ) from None
    if family_of(pipe) is None:
        raise ModelError(f"base model {name!r}: {no_family(pipe)}")
    sites_of(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)

"""Prompts as a base model's text encoder reads them."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cpe.models.families.table import family_of
from cpe.terms.chunks import chunks


@torch.no_grad()
def encode_prompts(
    pipe: Any, prompts: Sequence[str], *, batch: int = 64, progress: Callable[[int], Any] | None = None
) -> Tensor:
    """Returns the text embeddings that the network is given for these prompts, (B, T, D), float32 on the CPU.

    The pipeline's family gives them, so several text encoders come side by side as the model has them.

    Example:
        >>> from cpe import load_pipeline
        >>> pipe = load_pipeline("embedded", device="cpu")
        >>> encode_prompts(pipe, ["a rose", "a pizza"]).shape
        torch.Size([2, 77, 96])

    Args:
        pipe: a pipeline of diffusers; its guidance is left out.
        prompts: B texts; too long ones are cut as the pipeline cuts them.
        batch: prompts at once.
        progress: called with the number of prompts just encoded.

    Raises:
        ValueError: the pipeline is of no known family.
    """
    family, parts = family_of(pipe), []
    if family is None:
        raise ValueError(f"{type(pipe).__name__} is of no known family of base models")
    for chunk in chunks(prompts, batch):
        parts.append(family.texts(pipe, chunk).float().cpu())
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

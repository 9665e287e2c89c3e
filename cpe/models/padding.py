"""Padding of texts: a token that is a row of zeros is none, wherever texts are held.

Text encoders such as T5 fill prompts up with tokens that the network is told to leave out; gates leave them out too.
Stable Diffusion's own text encoders have no such rows: there padding is read like any other token.
"""

# Axes: B prompts, T tokens, D text width.

import torch
from torch import Tensor


def present(text: Tensor) -> Tensor:
    """Returns which tokens of texts (..., T, D) are no padding, (..., T); of a text that is all zeros, every one."""
    read = text.ne(0).any(dim=-1)
    return read | ~read.any(dim=-1, keepdim=True)


def without_padding(text: Tensor, mask: Tensor | None) -> Tensor:
    """Returns texts (B, T, D) with zeros where a mask (B, T) says padding; None: the texts as they are.

    A network that takes a prompt's text once a video frame has several rows a prompt, side by side.
    """
    if mask is None:
        return text
    rows = mask.to(text.device, torch.bool)
    if len(rows) != len(text):
        rows = rows.repeat_interleave(len(text) // len(rows), dim=0)
    return text.masked_fill(~rows[..., None], 0)  # whatever stood there, infinities included


def ended(surrogate: Tensor, target: Tensor) -> Tensor:
    """Returns what each token of targets (..., T, D) is to become, from the surrogates' texts of that shape.

    That is the surrogate's token at its place; past the surrogate's end, its last one; where the target itself ends,
    nothing.
    """
    own, wanted = present(surrogate), present(target)
    places = torch.arange(surrogate.shape[-2], device=surrogate.device)
    last = torch.where(own, places, 0).amax(dim=-1, keepdim=True)  # (..., 1)
    final = surrogate.take_along_dim(last[..., None], dim=-2)  # (..., 1, D)
    filled = torch.where(own[..., None], surrogate, final)
    return filled * wanted[..., None]

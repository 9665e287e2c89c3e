"""Denoising steps of transformers, untouched and with erasers of several sizes in turns."""

# Axes: B prompts, T tokens, D width of the text encoder's output.

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.inference import random_gates
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.storage.files import LoadedGates

WIDTH = 16  # height and width of what is denoised, where the network does not say
FRAMES = 3


def spent(work: Callable[[], Any]) -> float:
    """Returns the seconds that some work takes on the processor, over all of its threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def step_ratios(network: Any, tokens: int, counts: Sequence[int], *, steps: int = 3, rounds: int = 5) -> dict[str, Any]:
    """Returns seconds of a usual denoising step with erasers of several sizes over those of the untouched network.

    Every prompt is new and has text at all of its tokens, and each step takes it with and without the prompt, as
    guidance does. What a prompt's first step takes beyond a usual one is its cost once a prompt.

    Args:
        network: a transformer of a known family.
        tokens: prompt length T.
        counts: numbers of gates; with 0 the untouched network takes one more turn, which shows how far figures
            scatter.
        steps: usual steps of each prompt.
        rounds: prompts for each size.

    Returns:
        `step_ratio` and `once_ms` by the number of gates, and `step_ms` of the untouched network.
    """
    gates = random_gates(network, max(counts))
    erasers: dict[int, Eraser | None] = {-1: None}  # what all are compared with
    for count in counts:
        part = LoadedGates(gates.concepts[:count], gates.sites, gates.gates[:count])
        erasers[count] = Eraser([part]) if count else None
    order = list(erasers)
    times: dict[int, list[list[float]]] = {count: [] for count in order}
    for number in range(-1, rounds):  # the first, which warms up, does not count
        turn = number % len(order)
        for count in order[turn:] + order[:turn]:
            taken = _denoised(network, erasers[count], tokens, steps, seed=number)
            if number >= 0:
                times[count].append(taken)
    usual = {count: [median(taken[1:]) for taken in times[count]] for count in order}
    ratios = {
        count: median(ours / plain for ours, plain in zip(usual[count], usual[-1], strict=True)) for count in counts
    }
    once = {
        count: 1e3 * median(taken[0] - step for taken, step in zip(times[count], usual[count], strict=True))
        for count in counts
    }
    return {"step_ratio": ratios, "once_ms": once, "step_ms": 1e3 * median(usual[-1])}


@torch.no_grad()
def _denoised(network: Any, eraser: Eraser | None, tokens: int, steps: int, *, seed: int) -> list[float]:
    """Returns the seconds of each step of one prompt: the first, and so many usual ones."""
    generator = torch.Generator().manual_seed(seed)
    config = network.config
    channels, size = config.in_channels, getattr(config, "sample_size", None) or WIDTH
    video = "Video" in type(network).__name__ or "3D" in type(network).__name__
    width = getattr(config, "caption_channels", None) or config.text_dim
    sample = torch.randn(2, channels, *([FRAMES] if video else []), size, size, generator=generator)
    text = torch.randn(2, tokens, width, generator=generator)  # (B, T, D)
    # Video pipelines call the network once a prompt.
    calls = [(sample[:1], text[:1]), (sample[1:], text[1:])] if video else [(sample, text)]
    if eraser is not None:
        eraser.attach(network)
    taken = []
    try:
        for step in range(steps + 1):
            taken.append(spent(partial(_stepped, network, calls, 999 - step)))
    finally:
        if eraser is not None:
            eraser.detach()
    return taken


def _stepped(network: Any, calls: Sequence[tuple[Tensor, Tensor]], at: int) -> None:
    for sample, text in calls:
        network(sample, encoder_hidden_states=text, **_beside(network, text, at))


def _beside(network: Any, text: Tensor, at: int) -> dict[str, Any]:
    """Returns what else a call of a network needs."""
    given: dict[str, Any] = {"timestep": torch.full((len(text),), at)}
    if "PixArt" in type(network).__name__:
        given["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    if not hasattr(network.config, "text_dim"):
        given["encoder_attention_mask"] = torch.ones(text.shape[:2])
    return given

"""What each step draws: a function of seeds and of the picture's number alone, so that nothing of it need be kept."""

import hashlib
from collections.abc import Sequence

import torch


def source(*parts: object) -> torch.Generator:
    """Returns a source of randomness of its own for these parts, on the CPU."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def in_turn(seeds: Sequence[int], count: int, number: int) -> int:
    """Returns which of `count` things comes at place `number`: all in an order of their own, then all again in another.

    Args:
        seeds: of the order.
        count: things.
        number: place, from 0.
    """
    return int(torch.randperm(count, generator=source(*seeds, number // count))[number % count])


def below(limit: int, generator: torch.Generator) -> int:
    """Returns a whole number of 0..limit − 1."""
    return int(torch.randint(limit, (), generator=generator))

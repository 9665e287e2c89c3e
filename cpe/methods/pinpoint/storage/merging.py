"""Gates of many files as few: those of one shape over the same projections lie in one file."""

from collections.abc import Sequence

import torch

from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.storage.files import LoadedGates


def merged(parts: Sequence[LoadedGates]) -> list[LoadedGates]:
    """Returns the gates, those of one shape together, in the order of their first."""
    alike: dict[object, list[LoadedGates]] = {}
    for part in parts:
        alike.setdefault((part.gates.config.model_dump_json(), part.sites), []).append(part)
    return [_together(same) for same in alike.values()]


def _together(parts: Sequence[LoadedGates]) -> LoadedGates:
    first = parts[0]
    names = ("query", "key", "score", "down", "up")
    tensors = {name: torch.cat([getattr(part.gates, name) for part in parts]) for name in names}
    gates = Gates(first.gates.config, first.gates.widths, **tensors)
    return LoadedGates(tuple(concept for part in parts for concept in part.concepts), first.sites, gates)

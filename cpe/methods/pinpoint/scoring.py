"""How open gates are, many at once."""

import torch
from torch import Tensor

from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.storage.files import LoadedGates


def scoring_matrix(gates: Gates) -> Tensor:
    """Returns [Wq | v (| Wk)] of each gate, (N, R + 1 [+ R], D)."""
    columns = [gates.query, gates.score] + ([] if gates.config.tied_qk else [gates.key])
    return torch.cat(columns, dim=2).transpose(1, 2).contiguous()


def reordered(part: LoadedGates, order: dict[str, int]) -> LoadedGates:
    """Returns gates with their projections in the given order."""
    places = sorted(range(len(part.sites)), key=lambda place: order[part.sites[place]])
    rank, gates = part.gates.config.adapter_rank, part.gates
    downs, ups = gates.down.split(rank, dim=2), gates.up.split(list(gates.widths), dim=2)
    changed = Gates(
        gates.config,
        tuple(gates.widths[place] for place in places),
        gates.query,
        gates.key,
        gates.score,
        torch.cat([downs[place] for place in places], dim=2),
        torch.cat([ups[place] for place in places], dim=2),
    )
    return LoadedGates(part.concepts, tuple(part.sites[place] for place in places), changed)

"""How open gates are, many at once, and what the one that is most open at a token makes of it."""

# Axes: N concepts, C of them at a time, B prompts, T tokens, D text width, O projection width, S adapter rank,
# R gate rank, L projections; n tokens won by one gate.

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.storage.files import LoadedGates
from cpe.methods.pinpoint.storage.fitting import check_width
from cpe.models.padding import present

PAIRS_AT_ONCE = 128  # gates times prompts scored together; each takes T·T numbers


class Winners:
    """Which gate each token follows.

    Args:
        parts: gates by shape, all over the same projections.
    """

    def __init__(self, parts: Sequence[LoadedGates]) -> None:
        self._parts = parts
        self._concepts = [concept for part in parts for concept in part.concepts]
        self._scoring: list[Tensor] = []

    def prepare(self) -> None:
        """Puts side by side what scoring needs."""
        self._scoring = self._scoring or [scoring_matrix(part.gates) for part in self._parts]

    def codes(self, text: Tensor, strength: Mapping[str, float]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields each gate that wins tokens: its number among all, its tokens (B, T), its codes P (n, L·S).

        Args:
            text: (B, T, D), in float32 or float64.
            strength: of each concept.
        """
        prompts, tokens, _ = text.shape
        score = text.new_full((prompts, tokens), -torch.inf)
        winner = torch.zeros_like(score, dtype=torch.long)
        mixing = text.new_zeros(prompts, tokens, tokens)  # each token's row of its winner's attention A
        first = 0
        for scores, attention in self.scores(text):
            top, place = scores.max(dim=0)  # (B, T); scores still differ where openness rounds to 1
            score, newer = torch.stack([score, top]).max(dim=0)
            better = newer == 1
            rows = attention.gather(0, place[None, ..., None].expand(1, -1, -1, tokens))[0]  # (B, T, T)
            mixing = torch.where(better[..., None], rows, mixing)
            winner = torch.where(better, first + place, winner)
            first += len(scores)
        attended = mixing @ text  # (B, T, D): e = A X
        for number in winner.unique().tolist():
            config, down, _ = self.adapter(number, text)
            won, strong = winner == number, strength[self._concepts[number]]
            opened = config.alpha / config.adapter_rank * score[won].sigmoid()  # (n,): α/S · g
            opened = opened if strong == 1 else opened * strong
            yield number, won, opened[:, None] * attended[won] @ down

    def adapter(self, number: int, text: Tensor) -> tuple[GateConfig, Tensor, Tensor]:
        """Returns a gate's config, down (D, L·S) and up (S, ΣO), by its number among all."""
        part, place = self.place(number)
        gates = self._parts[part].gates
        down, up = gates.down[place], gates.up[place]
        return gates.config, down.to(text.device, text.dtype), up.to(text.device, text.dtype)

    def place(self, number: int) -> tuple[int, int]:
        """Returns a gate's part, and its place there."""
        for index, part in enumerate(self._parts):
            if number < len(part.gates):
                return index, number
            number -= len(part.gates)
        raise IndexError(number)

    def scores(self, text: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields scores (C, B, T) and attentions A (C, B, T, T) of some concepts at a time, in order."""
        check_width(self._parts[0], text)
        read, kind = present(text), (text.device, text.dtype)  # read: (B, T)
        padded = not bool(read.all())
        if not self._scoring or any((matrix.device, matrix.dtype) != kind for matrix in self._scoring):
            self._scoring = [scoring_matrix(part.gates).to(*kind) for part in self._parts]
        for part, matrix in zip(self._parts, self._scoring, strict=True):
            rank, tied = part.gates.config.gate_rank, part.gates.config.tied_qk
            for some in matrix.split(max(1, PAIRS_AT_ONCE // len(text))):
                mixed = nn.functional.linear(text, some.flatten(0, 1)).unflatten(2, some.shape[:2])
                mixed = mixed.permute(2, 0, 1, 3)  # (C, B, T, R + 1 [+ R])
                query = mixed[..., :rank]
                key = query if tied else mixed[..., rank + 1 :]
                logits = query @ key.transpose(-1, -2)  # (C, B, T, T)
                attention = (logits.masked_fill(~read[:, None], -torch.inf) if padded else logits).softmax(dim=-1)
                score = (attention @ mixed[..., rank : rank + 1])[..., 0]
                yield score.masked_fill(~read, -torch.inf) if padded else score, attention


def scoring_matrix(gates: Gates) -> Tensor:
    """Returns [Wq | v (| Wk)] of each gate, (N, R + 1 [+ R], D)."""
    columns = [gates.query, gates.score] + ([] if gates.config.tied_qk else [gates.key])
    return torch.cat(columns, dim=2).transpose(1, 2).contiguous()


def reordered(part: LoadedGates, order: Mapping[str, int]) -> LoadedGates:
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
    change = part.change
    if change is not None:
        rows = change.split(rank, dim=1)
        change = torch.cat([rows[place] for place in places], dim=1)
    return LoadedGates(part.concepts, tuple(part.sites[place] for place in places), changed, change)

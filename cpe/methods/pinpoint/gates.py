"""Residual attention gates: several concepts' parameters side by side, and their residuals.

CPE, section 3.2. For a text embedding X and one concept the gate attends over the tokens,
A = softmax(Q Kᵀ), e = A X, opens by g = σ(e v), and the residual of projection l is
Δ_l = α/S · (g ⊙ e) D_l U_l. Because (g ⊙ A X) D_l = g ⊙ (A (X D_l)), one product of X with
[Wq | v | D_1 … D_L] serves every projection, and the gate is computed once.
"""

# Axes: N concepts, B prompts, T tokens, D text width, O projection width, S adapter rank, R gate rank, L projections.

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cpe.methods.pinpoint.config import GateConfig


@dataclass
class Gates:
    """Parameters of N gates of one shape.

    Attributes:
        config: their common shape.
        widths: output width O_l of each projection.
        query: (N, D, R).
        key: (N, D, R); kept but unused while queries and keys are tied.
        score: (N, D, 1).
        down: (N, D, L·S), projection by projection.
        up: (N, S, ΣO), projection by projection.
    """

    config: GateConfig
    widths: tuple[int, ...]
    query: Tensor
    key: Tensor
    score: Tensor
    down: Tensor
    up: Tensor

    @classmethod
    def fresh(
        cls, config: GateConfig, text_width: int, widths: Sequence[int], generators: Sequence[torch.Generator]
    ) -> "Gates":
        """Returns new gates, one a generator, that change nothing: every up matrix is 0.

        Args:
            config: their shape.
            text_width: D.
            widths: output width of each projection.
            generators: one source of randomness a concept.
        """
        rank, adapter = config.gate_rank, config.adapter_rank

        def uniform(columns: int, bound: float) -> Tensor:
            rows = [torch.rand(text_width, columns, generator=g) * (2 * bound) - bound for g in generators]
            return torch.stack(rows)

        narrow = (text_width * rank) ** -0.5 / text_width**2
        count = len(generators)
        return cls(
            config=config,
            widths=tuple(widths),
            query=uniform(rank, narrow),
            key=uniform(rank, narrow),
            score=torch.zeros(count, text_width, 1),
            down=uniform(len(widths) * adapter, (text_width * adapter) ** -0.5),
            up=torch.zeros(count, adapter, sum(widths)),
        )

    def __len__(self) -> int:
        return self.query.shape[0]

    @property
    def text_width(self) -> int:
        """Width D of the text embeddings."""
        return self.query.shape[1]

    def trained(self) -> dict[str, Tensor]:
        """Returns the tensors that training moves, by name."""
        names = ["query", "score", "down", "up"] + ([] if self.config.tied_qk else ["key"])
        return {name: getattr(self, name) for name in names}

    def flat(self) -> Tensor:
        """Returns a copy of what training moves, one row a gate, (N, P): [Wq | v | D_1 … D_L (| Wk)], then the ups."""
        parts = [self.query, self.score, self.down] + ([] if self.config.tied_qk else [self.key])
        return torch.cat([torch.cat(parts, dim=2).flatten(1), self.up.flatten(1)], dim=1)

    def viewing(self, flat: Tensor) -> "Gates":
        """Returns gates whose moving tensors are views of rows made by `flat`; tied keys stay as they are."""
        rank, adapter = self.config.gate_rank, self.config.adapter_rank
        side, up = side_by_side(self, flat), flat[:, -adapter * sum(self.widths) :]
        return Gates(
            config=self.config,
            widths=self.widths,
            query=side[..., :rank],
            key=self.key if self.config.tied_qk else side[..., -rank:],
            score=side[..., rank : rank + 1],
            down=side[..., rank + 1 : rank + 1 + adapter * len(self.widths)],
            up=up.view(len(flat), adapter, -1),
        )

    def map(self, change) -> "Gates":
        """Returns gates with a function applied to every tensor."""
        tensors = {f.name: change(getattr(self, f.name)) for f in fields(self) if f.name not in ("config", "widths")}
        return Gates(self.config, self.widths, **tensors)

    def __getitem__(self, index: slice | Tensor) -> "Gates":
        """Returns some of the gates, the concept axis kept."""
        return self.map(lambda tensor: tensor[index])


def side_by_side(gates: Gates, flat: Tensor) -> Tensor:
    """Returns [Wq | v | D_1 … D_L (| Wk)] of rows made by `Gates.flat`, as a view (N, D, R + 1 + L·S (+ R))."""
    return flat[:, : -gates.config.adapter_rank * sum(gates.widths)].view(len(flat), gates.text_width, -1)

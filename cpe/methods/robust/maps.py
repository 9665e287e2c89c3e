"""A text map: rectified units that see a concept's tokens, and what they add to them.

δ(x) = Σ_h max(0, k_h · x − b_h) w_h
"""

# Axes: H units, D text width.

from typing import NamedTuple

import torch
from torch import Tensor


class TextMap(NamedTuple):
    """One concept's map.

    Attributes:
        keys: k, what a unit looks for, (H, D).
        thresholds: b, from where on it acts, (H,).
        values: w, what it adds, (H, D).
    """

    keys: Tensor
    thresholds: Tensor
    values: Tensor

    def change(self, text: Tensor) -> Tensor:
        """Returns what is added to every token of a text, (…, D) like it."""
        return (text @ self.keys.T - self.thresholds).relu() @ self.values

    def to(self, like: Tensor) -> "TextMap":
        """Returns it in another tensor's dtype, on its device."""
        return TextMap(*(part.to(like.device, like.dtype) for part in self))


class Whitening(NamedTuple):
    """Coordinates in which anchors' tokens have mean 0 and spread evenly: units are trained there.

    Attributes:
        mean: (D,).
        matrix: symmetric, (D, D).
    """

    mean: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, tokens: Tensor, shrinkage: float) -> "Whitening":
        """Returns that of tokens (n, D).

        Args:
            tokens: of anchors.
            shrinkage: share of the mean variance that is added to every direction's.
        """
        exact = tokens.double()
        covariance = torch.cov(exact.T)
        covariance += shrinkage * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
        values, vectors = torch.linalg.eigh(covariance)
        return cls(exact.mean(dim=0).to(tokens), (vectors * values**-0.5 @ vectors.T).to(tokens))

    def white(self, tokens: Tensor) -> Tensor:
        """Returns tokens (…, D) in these coordinates."""
        return (tokens - self.mean) @ self.matrix

    def map_of(self, units: Tensor) -> TextMap:
        """Returns units (H, 2 D + 1), their key and threshold in these coordinates, as a map of plain texts."""
        width = len(self.mean)
        keys = units[:, :width] @ self.matrix
        return TextMap(keys, units[:, width] + keys @ self.mean, units[:, width + 1 :])


def fresh_units(seen: Tensor, anchors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns units that look for a concept's tokens and add nothing yet, (H, 2 D + 1).

    Args:
        seen: the concept's tokens, whitened, (n, D).
        anchors: tokens of anchors, whitened, (m, D); a unit acts on one in a hundred of them.
        count: H.
        generator: of what is drawn.
    """
    width = seen.shape[1]
    keys = seen[torch.randint(len(seen), (count,), generator=generator).to(seen.device)]
    noise = torch.randn(count, width, generator=generator).to(keys)
    keys = torch.nn.functional.normalize(keys + 0.5 * keys.norm(dim=1, keepdim=True) / width**0.5 * noise)
    thresholds = torch.quantile(anchors @ keys.T, 0.99, dim=0)
    return torch.cat([keys, thresholds[:, None], torch.zeros_like(keys)], dim=1)

"""Weighs how far an error in each of a U-Net's cross-attention projections can travel."""

# Axes: D text width, O projection width, L projections.

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cpe.models.sites import find_projections, weight_of, widths_of
from wording.files import whole

SUMMARY_FORMAT = 1  # raised when weights or M are computed otherwise


@dataclass(frozen=True)
class BaseProjections:
    """What training needs to know of a base model, computed once.

    Example:
        >>> from cpe import load_pipeline
        >>> pipe = load_pipeline("embedded", device="cpu")
        >>> base = BaseProjections.of(pipe.unet, tokens=pipe.tokenizer.model_max_length)
        >>> len(base.names)
        14

    Attributes:
        names: module paths of the L projections.
        widths: their output widths O_l.
        weights: c_l, the travel weight over tokens, width and L (L,).
        matrices: W_l, L of (O_l, D); the model's own weights where dtype and device agree.
        gram: M = Σ_l c_l W_lᵀ W_l (D, D).
        tokens: prompt length T.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    weights: Tensor
    matrices: tuple[Tensor, ...]
    gram: Tensor
    tokens: int

    @property
    def text_width(self) -> int:
        """Width D of the text embeddings."""
        return self.gram.shape[0]

    @classmethod
    def of(
        cls,
        unet: nn.Module,
        *,
        tokens: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        cache: Path | None = None,
    ) -> "BaseProjections":
        """Reads a U-Net; sums run in float64, then everything is cast to the dtype.

        Args:
            unet: the network.
            tokens: prompt length T.
            dtype: of the training that follows.
            device: where it will run.
            cache: folder that keeps spectral norms and M by the weights' content; None computes them.
        """
        found = find_projections(unet)
        widths = tuple(widths_of(module)[0] for module in found.values())
        weights, gram = _cached_summary(unet, list(found), widths, tokens, cache)
        matrices = tuple(weight_of(unet, name).detach().to(device, dtype) for name in found)
        return cls(tuple(found), widths, weights.to(device, dtype), matrices, gram.to(device, dtype), tokens)


def _cached_summary(
    unet: nn.Module, names: list[str], widths: tuple[int, ...], tokens: int, cache: Path | None
) -> tuple[Tensor, Tensor]:
    """Returns c_l (L,) and M (D, D) in float64, from the cache if it holds those of the same weights."""
    if cache is None:
        return _summary(unet, names, widths, tokens)
    path = cache / f"{_content(unet, names, tokens)}.safetensors"
    if path.exists():
        try:
            kept = load_file(path)
            return kept["weights"], kept["gram"]
        except (SafetensorError, KeyError):
            path.unlink()  # cut short; computed again
    weights, gram = _summary(unet, names, widths, tokens)
    with whole(path) as beside:
        save_file({"weights": weights, "gram": gram}, beside)
    return weights, gram


def _summary(unet: nn.Module, names: list[str], widths: tuple[int, ...], tokens: int) -> tuple[Tensor, Tensor]:
    travel = [_travel_weight(unet, name, tokens) for name in names]
    shares = [w / (tokens * width * len(names)) for w, width in zip(travel, widths, strict=True)]
    matrices = [_matrix(unet, name) for name in names]
    gram = torch.zeros(matrices[0].shape[1], matrices[0].shape[1], dtype=torch.float64)
    for share, matrix in zip(shares, matrices, strict=True):
        gram += share * matrix.T @ matrix
    return torch.tensor(shares, dtype=torch.float64), gram


def _content(unet: nn.Module, names: list[str], tokens: int) -> str:
    """Returns a hash of every weight that the summary depends on, and of the number of tokens."""
    digest = hashlib.sha256(f"{SUMMARY_FORMAT} {tokens}".encode())
    for name in names:
        block = name.rsplit(".", 1)[0]
        for part in [name] + ([f"{block}.{other}" for other in ("to_q", "to_out.0")] if name.endswith("to_k") else []):
            weight = weight_of(unet, part)
            digest.update(f"{part} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def _travel_weight(unet: nn.Module, name: str, tokens: int) -> float:
    """σmax(W_o) for values, σmax(W_o W_v) σmax(W_q) / T for keys (CPE, equation 7)."""
    block = name.rsplit(".", 1)[0]
    out = _matrix(unet, f"{block}.to_out.0")
    if name.endswith("to_v"):
        return torch.linalg.matrix_norm(out, 2).item()
    through = torch.linalg.matrix_norm(out @ _matrix(unet, f"{block}.to_v"), 2)
    return (through * torch.linalg.matrix_norm(_matrix(unet, f"{block}.to_q"), 2)).item() / tokens


def _matrix(unet: nn.Module, path: str) -> Tensor:
    return weight_of(unet, path).detach().double().cpu()

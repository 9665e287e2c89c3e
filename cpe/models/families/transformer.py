"""Transformers whose cross-attentions take keys and values from the text alone: the objective is exact there.

Text encoders of these families fill prompts up with padding. Some networks are told which tokens are none; others are
given zeros there. Either way gates leave padding out.
"""

# Axes: B prompts, T tokens, D text width.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpe.models.families.base import Family, as_drawn
from cpe.models.padding import present, without_padding
from cpe.models.sites import find_projections


@dataclass(frozen=True)
class TransformerFamily(Family):
    """A family told by its network's class.

    Attributes:
        name: for people.
        networks: classes of the network.
        before: module paths that text passes before the cross-attentions, in order.
        mask: the network's argument that says which tokens it reads; None: its pipeline leaves zeros elsewhere.
        length: T, where the pipeline gives fewer tokens for a prompt that has fewer.
    """

    name: str
    networks: tuple[str, ...]
    before: tuple[str, ...] = ()
    mask: str | None = None
    length: int | None = None

    def owns(self, pipe: Any) -> bool:
        return type(_unwrapped(self.network(pipe))).__name__ in self.networks

    def network(self, pipe: Any) -> nn.Module:
        network: nn.Module = getattr(pipe, "transformer", pipe)
        if getattr(pipe, "transformer_2", None) is not None:
            raise ValueError(
                f"{type(pipe).__name__} denoises with two networks (transformer and transformer_2, as Wan 2.2 A14B "
                "does), each with projections of its own; gates belong to one. Use a model with one network"
            )
        return network

    def sites(self, network: nn.Module) -> dict[str, nn.Linear]:
        return find_projections(network)

    def way(self, network: nn.Module) -> list[nn.Module]:
        return [network.get_submodule(path) for path in self.before if _has(network, path)]

    def texts(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        encoded = as_drawn(pipe, prompts)
        text, mask = encoded[0], encoded[1] if self.mask else None
        if self.length is not None and text.shape[1] < self.length:
            text = F.pad(text, (0, 0, 0, self.length - text.shape[1]))
        read = present(text) if mask is None else mask
        return without_padding(passed(text, self.way(_unwrapped(self.network(pipe)))), read)

    def padding(self, values: Mapping[str, Any]) -> Tensor | None:
        if self.mask is None:
            return present(values["encoder_hidden_states"])
        given: Tensor | None = values.get(self.mask)
        if given is None:
            return torch.ones(values["encoder_hidden_states"].shape[:2], dtype=torch.bool)
        return given[:, 0] >= 0 if given.ndim == 3 else given.bool()  # a bias has large negative numbers there


class HunyuanFamily(TransformerFamily):
    """HunyuanDiT, whose two texts stand side by side; its padding is a learned one, which the network reads."""

    def way(self, network: nn.Module) -> list[nn.Module]:
        return [network.get_submodule("text_embedder")]

    def texts(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        network: Any = _unwrapped(self.network(pipe))
        first, _, read, _ = as_drawn(pipe, prompts, text_encoder_index=0)
        second, _, read_second, _ = as_drawn(
            pipe, prompts, text_encoder_index=1, max_sequence_length=network.config.text_len_t5
        )
        second = passed(second, [network.text_embedder])
        return without_padding(torch.cat([first.to(second), second], dim=1), torch.cat([read, read_second], dim=1))

    def padding(self, values: Mapping[str, Any]) -> Tensor | None:
        return torch.cat([values["text_embedding_mask"], values["text_embedding_mask_t5"]], dim=1).bool()


def passed(text: Tensor, way: Sequence[nn.Module]) -> Tensor:
    """Returns a prompt's embedding (B, T, ·) after a network's own modules, (B, T, D), in their precision."""
    for module in way:
        weight = next(module.parameters(), text)
        where = text.device if weight.is_meta else weight.device  # under offloading a hook brings weights along
        text = module(text.to(where, weight.dtype))
    return text


def _unwrapped(network: Any) -> Any:
    return getattr(network, "_orig_mod", network)


def _has(network: nn.Module, path: str) -> bool:
    """Whether a network has a module that its configuration may leave out."""
    module: Any = network
    for name in path.split("."):
        module = getattr(module, name, None)
    return isinstance(module, nn.Module)


CAPTION = ("caption_projection",)
MASK = "encoder_attention_mask"
PIXART = TransformerFamily("PixArt", ("PixArtTransformer2DModel",), CAPTION, MASK)
SANA = TransformerFamily(
    "SANA", ("SanaTransformer2DModel", "SanaVideoTransformer3DModel"), (*CAPTION, "caption_norm"), MASK
)
WAN = TransformerFamily("Wan", ("WanTransformer3DModel",), ("condition_embedder.text_embedder",))
LTX = TransformerFamily("LTX-Video", ("LTXVideoTransformer3DModel",), CAPTION, MASK)
LATTE = TransformerFamily("Latte", ("LatteTransformer3DModel",), CAPTION, length=120)
ALLEGRO = TransformerFamily("Allegro", ("AllegroTransformer3DModel",), CAPTION, MASK)
COSMOS = TransformerFamily("Cosmos", ("CosmosTransformer3DModel",), ("crossattn_proj",))
HUNYUAN = HunyuanFamily("HunyuanDiT", ("HunyuanDiT2DModel",))

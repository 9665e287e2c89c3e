"""Models with a U-Net that attends to the text: Stable Diffusion 1, 2 and XL, LCM, Kolors, AnimateDiff and the like."""

# Axes: B prompts, T tokens, D text width.

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cpe.models.families.base import Family, as_drawn
from cpe.models.sites import find_projections


class UNetFamily(Family):
    """Cross-attentions of a U-Net; several text encoders come side by side as the pipeline has them."""

    name = "U-Net with cross-attention"

    def owns(self, pipe: Any) -> bool:
        return isinstance(getattr(pipe, "unet", None), nn.Module)

    def network(self, pipe: Any) -> nn.Module:
        unet: nn.Module = pipe.unet
        return unet

    def sites(self, network: nn.Module) -> dict[str, nn.Linear]:
        return find_projections(network)

    def way(self, network: nn.Module) -> list[nn.Module]:
        """Returns Kolors' projection of the text; other U-Nets have none."""
        if getattr(getattr(network, "config", None), "encoder_hid_dim_type", None) != "text_proj":
            return []
        return [network.get_submodule("encoder_hid_proj")]

    def texts(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        text: Tensor = as_drawn(pipe, prompts)[0]
        for module in self.way(getattr(pipe.unet, "_orig_mod", pipe.unet)):
            text = module(text)
        return text


UNET = UNetFamily()

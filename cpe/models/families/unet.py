"""Models with a U-Net that attends to the text encoder's own output: Stable Diffusion 1, 2 and XL, LCM and the like."""

# Axes: B prompts, T tokens, D text width.

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cpe.models.families.base import Family
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

    def texts(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        encoded: tuple[Tensor, ...] = pipe.encode_prompt(
            prompt=list(prompts),
            device=pipe._execution_device,  # the pipeline's own choice when it draws
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return encoded[0]


UNET = UNetFamily()

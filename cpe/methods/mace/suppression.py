"""The network that MACE's adapters learn on: how much its pictures attend to chosen tokens."""

# Axes: B pictures, C latent channels, H heads, Q places of a layer, T tokens, D text width, O projection width.

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cpe.methods.checkpoint import hash_of
from cpe.models.attachment import network_of
from cpe.models.edits import check_free
from cpe.models.families.table import sites_of
from cpe.models.sites import weight_of


class Watched:
    """A copy of a pipeline's network that tells where its cross-attentions look; the base model is only read.

    Args:
        pipe: the base model.

    Raises:
        ValueError: the network has no cross-attention, needs more than a picture, a time and a text, or its weights are
            packed.
        RuntimeError: something that erases is on it.
    """

    def __init__(self, pipe: Any) -> None:
        from diffusers import DDIMScheduler
        from diffusers.models.attention_processor import AttnProcessor

        base, sites = network_of(pipe), list(sites_of(pipe))
        check_free(base, sites)
        _check_alone(base)
        self.untouched = {path: weight_of(base, path).detach().float().cpu() for path in sites}  # W₀, (O, D) each
        self.identity = hash_of(*base.parameters())
        self.device = next(base.parameters()).device
        # Torch's own cast: that of diffusers warns of layers that it would leave in float32, which is what they become.
        self.network = nn.Module.to(copy.deepcopy(base), torch.float32).eval().requires_grad_(False)
        self.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        self._seen: list[Tensor] = []
        for path in dict.fromkeys(site.rpartition(".")[0] for site in sites):
            attention: Any = self.network.get_submodule(path)
            attention.set_processor(AttnProcessor())  # others never have the probabilities
            attention.get_attention_scores = partial(self._note, attention.get_attention_scores)

    def _note(self, scores: Callable[..., Tensor], *given: Any, **named: Any) -> Tensor:
        self._seen.append(probabilities := scores(*given, **named))  # (B H, Q, T)
        return probabilities

    def attention_to(
        self, tokens: Tensor, weights: Mapping[str, Tensor], noisy: Tensor, time: Tensor, text: Tensor
    ) -> Tensor:
        """Returns Σ over layers of |A|, the norm of all heads' and places' attention to some tokens.

        Args:
            tokens: which ones, (T,) bool.
            weights: of the key and value matrices, (O, D) by module path.
            noisy: a picture's latents, (1, C, height, width).
            time: of their noise, (1,).
            text: (1, T, D).

        Source: MACE, equation 4, over whole pictures: no masks say where in them the concept is.
        """
        self._seen.clear()
        given = {f"{path}.weight": weight for path, weight in weights.items()}
        functional_call(self.network, given, (noisy, time), {"encoder_hidden_states": text})
        norms = [probabilities[:, :, tokens].norm() for probabilities in self._seen]
        self._seen.clear()
        return torch.stack(norms).sum()

    def noised(self, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Returns latents (1, C, height, width) with the noise that they have at a time (1,)."""
        noisy: Tensor = self.scheduler.add_noise(latents, noise, time)
        return noisy

    @property
    def times(self) -> int:
        """Times of the schedule."""
        count: int = self.scheduler.config["num_train_timesteps"]
        return count


def _check_alone(network: nn.Module) -> None:
    config: Any = getattr(network, "config", {})
    more = [name for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim") if config.get(name)]
    if more:
        raise ValueError(
            f"{type(network).__name__} needs more than a picture, a time and a text ({', '.join(more)}), as Stable "
            "Diffusion XL does; MACE is trained on networks that need no more"
        )


@torch.no_grad()
def drawn(pipe: Any, prompts: Sequence[str], seed: int, *, steps: int, guidance_scale: float) -> Tensor:
    """Returns the latents (B, C, height, width) float32 of pictures that the untouched model draws by DDIM.

    Args:
        pipe: the base model; its own scheduler is put back afterwards.
        prompts: B texts, a picture each.
        seed: of the noise that they start from.
        steps: of denoising.
        guidance_scale: classifier-free guidance.
    """
    from diffusers import DDIMScheduler

    own = pipe.scheduler
    pipe.scheduler = DDIMScheduler.from_config(own.config)
    try:
        latents: Tensor = pipe(
            list(prompts),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).images
    finally:
        pipe.scheduler = own
    return latents.float()

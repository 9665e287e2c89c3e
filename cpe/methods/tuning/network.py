"""A network in training beside itself as it was: a copy, so that the base model is only read."""

# Axes: B pictures, C latent channels, T tokens, D text width.

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cpe.methods.checkpoint import hash_of
from cpe.models.attachment import network_of
from cpe.models.edits import check_free
from cpe.models.sites import weight_of

LAYERS = (nn.Linear, nn.Conv2d)  # what is trained of a network, as the published scripts have it


class Student:
    """A copy of a pipeline's network, some layers of which learn; what it was before answers too.

    Args:
        pipe: the base model.
        paths: the layers that learn, with their biases.

    Raises:
        ValueError: the network needs more than a picture, a time and a text, or its weights are packed.
        RuntimeError: something that erases is on it.
    """

    def __init__(self, pipe: Any, paths: Sequence[str]) -> None:
        base = network_of(pipe)
        check_free(base, ())
        _check_alone(base)
        for path in paths:
            weight_of(base, path)
        own = next(base.parameters())
        self.device, self.dtype = own.device, torch.promote_types(own.dtype, torch.float32)
        # Torch's own cast: that of diffusers warns of layers that it would leave in float32, which is what they become.
        self.network = nn.Module.to(copy.deepcopy(base), self.dtype).eval().requires_grad_(False)
        names = [f"{path}.{kind}" for path in paths for kind, _ in base.get_submodule(path).named_parameters()]
        parameters = dict(self.network.named_parameters())
        self.learning = {name: parameters[name].requires_grad_() for name in names}
        self.before = {name: value.detach().clone() for name, value in self.learning.items()}

    def learned(self, latents: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """Returns the prediction (B, C, height, width) of what learns.

        Args:
            latents: noisy, (B, C, height, width).
            times: of the noise, (B,).
            text: (B, T, D).
        """
        predicted: Tensor = self.network(latents, times, encoder_hidden_states=text).sample
        return predicted

    @torch.no_grad()
    def taught(self, latents: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """Returns the prediction of the network as it was, likewise."""
        predicted: Tensor = functional_call(
            self.network, self.before, (latents, times), {"encoder_hidden_states": text}
        ).sample
        return predicted

    def moved(self, value: Tensor) -> Tensor:
        """Returns a tensor on the network's device, in its precision."""
        return value.to(self.device, self.dtype)

    def deltas(self) -> dict[str, Tensor]:
        """Returns what has been added to weights, by their layers' paths, and to biases, by `path.bias`, float32."""
        return {
            name.removesuffix(".weight"): (value.detach() - self.before[name]).float().cpu().contiguous()
            for name, value in self.learning.items()
        }

    @property
    def shape(self) -> tuple[int, int, int]:
        """Latents of one picture: (C, height, width)."""
        config: Any = self.network.config
        size = config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return config["in_channels"], height, width

    def known_by(self) -> str:
        """Returns a hash of the whole network as it was."""
        return hash_of(*(self.before.get(name, value) for name, value in self.network.named_parameters()))


def layers_of(network: nn.Module, wanted: Callable[[str], bool]) -> list[str]:
    """Returns the paths of the projections and convolutions that are wanted, in the network's order."""
    return [path for path, module in network.named_modules() if isinstance(module, LAYERS) and wanted(path)]


def parameters_of(network: nn.Module, paths: Sequence[str]) -> Iterator[Tensor]:
    """Yields the weights and biases of layers."""
    for path in paths:
        yield from network.get_submodule(path).parameters()


def _check_alone(network: nn.Module) -> None:
    """Checks that a network predicts from a noisy picture, its time and one text.

    Raises:
        ValueError: it needs more.
    """
    config: Any = network.config
    kind = type(network).__name__
    for setting in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim"):
        if config.get(setting) is not None:
            raise ValueError(
                f"{kind} has conditions besides its text ({setting} is {config[setting]!r}, as Stable Diffusion XL and "
                "LCM have), which are not trained; take a method that changes the text's entrance alone (cpe, uce)"
            )
    if config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"{kind} takes {config['in_channels']} channels and predicts {config['out_channels']}, as inpainting does; "
            "train on the text-to-image model, or take a method that changes the text's entrance alone (cpe, uce)"
        )

"""Weights of a network changed in place, and put back bit for bit: for ways of erasing that edit the model itself."""

# Axes: D text width, O projection width.

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cpe.models.attachment import ATTRIBUTE, attachment_at, network_of
from cpe.models.sites import innermost, layer_of, parameter_of


class Edit:
    """Changed weights of one network, until `remove`.

    While it is on, the network is an ordinary one with other weights: saving, compiling, quantising and copying it
    take the change along. Whatever lies around a layer (LoRA) stays around it.

    Args:
        pipe: the pipeline or network.
        names: the weights that change, by their layers' paths, and biases, by `path.bias`.
        change: gives what is added to a weight by its name, both float32, of the weight's own shape.

    Raises:
        ValueError: a weight is packed, as quantised ones are, or there is no such bias.
        RuntimeError: something that erases is on the network already, or its weights are elsewhere (offloaded).
    """

    def __init__(self, pipe: Any, names: Iterable[str], change: Callable[[str, Tensor], Tensor]) -> None:
        self.network = network_of(pipe)
        self.active = True
        weights = {name: parameter_of(self.network, name) for name in names}
        check_free(self.network, map(layer_of, weights))
        away = [name for name, weight in weights.items() if weight.is_meta]
        if away:
            raise RuntimeError(
                f"the weights of {away[0]} and {len(away) - 1} more are offloaded; attach first, then offload"
            )
        self._before = {name: (weight, weight.detach().clone()) for name, weight in weights.items()}
        with torch.no_grad():
            changed = [
                weight.float() + change(name, weight.float()) for name, weight in weights.items()
            ]  # all, or nothing
            for weight, value in zip(weights.values(), changed, strict=True):
                weight.copy_(value)
        vars(self.network)[ATTRIBUTE] = self

    def remove(self) -> None:
        """Puts the weights back.

        Raises:
            RuntimeError: some are no longer those that were changed (loaded anew, quantised, offloaded): nothing is put
                back then.
        """
        if not self.active:
            return
        other = [name for name, (weight, _) in self._before.items() if not self._is_there(name, weight)]
        if other:
            raise RuntimeError(
                f"the weights of {other[0]} and {len(other) - 1} more were replaced since they were edited (loaded "
                "anew, quantised or offloaded), so they cannot be put back; undo that first, or load the model again"
            )
        self.active = False
        with torch.no_grad():
            for weight, before in self._before.values():
                weight.copy_(before)
        if vars(self.network).get(ATTRIBUTE) is self:
            del vars(self.network)[ATTRIBUTE]

    def _is_there(self, name: str, weight: Tensor) -> bool:
        """Whether a weight is still the one of its layer, and has numbers."""
        kind = "weight" if layer_of(name) == name else "bias"
        now = getattr(innermost(self.network.get_submodule(layer_of(name))), kind, None)
        return now is weight and not weight.is_meta


def check_free(network: nn.Module, paths: Iterable[str]) -> None:
    """Checks that nothing that erases is on a network or at one of its layers.

    Raises:
        RuntimeError: something is.
    """
    places = [("the network", network), *((path, network.get_submodule(path)) for path in paths)]
    for path, module in places:
        if attachment_at(module) is not None:
            raise RuntimeError(
                f"another eraser is attached at {path}; take it off with cpe.detach(pipe), or load all gates into one "
                "eraser"
            )

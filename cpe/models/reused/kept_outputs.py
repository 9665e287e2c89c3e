"""Projections' outputs that are reused: only for the very same text in front of the very same weights."""

# Axes: B prompts, T tokens, D text width, O projection width.

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = ("_hf_hook", "_diffusers_hook")  # accelerate's and diffusers': under them weights come and go


@dataclass(frozen=True)
class KeptOutput:
    """One projection's output, and the state of everything it came from besides the text."""

    value: Tensor
    version: int | None
    parameters: tuple[Callable[[], Tensor | None], ...]
    state: tuple[Any, ...]
    checksums: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, value: Tensor, module: nn.Module, text: Tensor) -> "KeptOutput":
        parameters = _parameters(module)
        state, sums = _state(parameters, text), tuple(map(_checksum, parameters))
        return cls(value, version_of(value), tuple(map(weakref.ref, parameters)), state, sums)

    def holds_for(self, module: nn.Module, text: Tensor) -> bool:
        """Whether nothing changed since, the kept tensor itself included."""
        parameters = _parameters(module)
        if len(parameters) != len(self.parameters) or self.state != _state(parameters, text):
            return False
        if any(known() is not parameter for known, parameter in zip(self.parameters, parameters, strict=True)):
            return False
        if self.version is None or self.version != version_of(self.value):
            return False
        sums = zip(self.checksums, parameters, strict=True)
        return all(known is None or torch.equal(known, _checksum(now)) for known, now in sums)  # type: ignore[arg-type]


def is_plain(module: nn.Module) -> bool:
    """Whether a linear layer's output depends on nothing but the text and parameters that stay in the module."""
    hooked = any(name in vars(module) for name in _HOOKS)
    return not hooked and all(type(parameter) is nn.Parameter for parameter in _parameters(module))


def _parameters(module: nn.Module) -> tuple[Tensor, ...]:
    """Returns a linear layer's weight (O, D) and, if it has one, its bias (O,)."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    return (weight,) if bias is None else (weight, bias)  # type: ignore[return-value]


def _state(parameters: tuple[Tensor, ...], text: Tensor) -> tuple[Any, ...]:
    """Returns what tells that a parameter, or the precision that the layer computes in, is another."""
    kind = text.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return autocast, *((p.data_ptr(), version_of(p), p.dtype, p.device) for p in parameters)


def _checksum(parameter: Tensor) -> Tensor | None:
    """Returns a bias's bits, or each row's sum (O,) of a weight's: changed through `.data` they leave no other trace.

    Only on the CPU: elsewhere comparing would make every step wait for the device.
    """
    if parameter.device.type != "cpu":
        return None
    words = bits_of(parameter)
    return words.sum(dim=1, dtype=torch.int64) if words.dim() > 1 else words.clone()


def bits_of(tensor: Tensor) -> Tensor:
    """Returns the bits as integers, eight bytes to one where rows divide so: quicker to read than short floats."""
    size, tensor = tensor.element_size(), tensor.detach().contiguous()
    if tensor.shape[-1] * size % 8:
        return tensor.view(torch.uint8)
    return (tensor.clone() if tensor.storage_offset() * size % 8 else tensor).view(torch.int64)


def added(output: Tensor, residual: Tensor) -> Tensor:
    """Returns a projection's output (B, T, O) with a residual, where and in the precision that the output is."""
    return output + residual.to(output.device, output.dtype)


def version_of(tensor: Tensor) -> int | None:
    """Returns the count of in-place changes, or None for inference tensors, which keep none."""
    return None if tensor.is_inference() else tensor._version

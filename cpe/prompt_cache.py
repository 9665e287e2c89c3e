"""Residuals of the last prompts, and the projections' outputs for the texts in use: computed once, never stale.

The residual depends on the text alone and is found again by the text's value. The output also depends on the
weights, so it is reused only for the very same text tensor in front of the very same weights: that is one
denoising loop. It goes when the text tensor goes.
"""

# Axes: B prompts, T tokens, D text width, O projection width.

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

PROMPTS_KEPT = 4
RESIDUALS_MIB = 256
_HOOKS = ("_hf_hook", "_diffusers_hook")  # accelerate's and diffusers': under them weights come and go
_NUMBERS = itertools.count()
_CACHES: "weakref.WeakValueDictionary[int, PromptCache]" = weakref.WeakValueDictionary()


class PromptCache:
    """Residuals of the last prompts, and the projections' outputs for the texts in use.

    Args:
        residuals: gives the residuals by module path for a text.
        sites: the module paths; a projection is known by its place among them.
    """

    def __init__(self, residuals: Callable[[Tensor], dict[str, Tensor]], sites: list[str]) -> None:
        self.active = True
        self.number = next(_NUMBERS)
        self._residuals, self._sites = residuals, sites
        self._prompts: list[_Prompt] = []
        _CACHES[self.number] = self

    def close(self) -> None:
        """Lets everything go; forwards hand through from now on."""
        self.active = False
        self._prompts = []

    def forget_outputs(self) -> None:
        """Drops the outputs, because the weights changed; residuals stay."""
        for prompt in self._prompts:
            prompt.outputs.clear()

    def residual(self, text: Tensor, index: int) -> Tensor:
        """Returns one projection's residual (B, T, O)."""
        return self._prompt(text).residuals[self._sites[index]]

    def output(self, text: Tensor, index: int, module: nn.Module, base_forward: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns one projection's output (B, T, O) with its residual, computed or kept."""
        prompt = self._prompt(text)
        residual = prompt.residuals[self._sites[index]]
        if torch.is_grad_enabled() or not _is_plain(module, base_forward):  # a graph belongs to one step alone
            return _sum(base_forward(text), residual)
        kept = prompt.outputs.get(index)
        if kept is None or not kept.holds_for(module, text):
            with torch.inference_mode(False), torch.no_grad():  # normal tensors count their changes in place
                kept = _Output.of(_sum(base_forward(text), residual), module, text)
            prompt.outputs[index] = kept
        return kept.value

    def _prompt(self, text: Tensor) -> "_Prompt":
        for prompt in self._prompts:
            if prompt.is_of(text):
                return prompt
        found = next((prompt for prompt in self._prompts if prompt.equals(text)), None)
        if found is None:
            found = _Prompt(text.detach().clone(), self._residuals(text))
        found.meet(text)
        others = [prompt for prompt in self._prompts if prompt is not found]
        self._prompts, room = [found], RESIDUALS_MIB * 2**20 - found.size
        for prompt in others[: PROMPTS_KEPT - 1]:
            room -= prompt.size
            if room >= 0:
                self._prompts.append(prompt)
        return found


@dataclass
class _Prompt:
    """One text's value and residuals, and the outputs for the tensor that holds it now."""

    copy: Tensor
    residuals: dict[str, Tensor]
    outputs: dict[int, "_Output"] = field(default_factory=dict)
    seen: Callable[[], Tensor | None] = lambda: None
    version: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the residuals."""
        return sum(residual.nbytes for residual in self.residuals.values())

    def is_of(self, text: Tensor) -> bool:
        """Whether this very tensor was met, and not changed since; on the CPU, by value, as `.data` counts nothing."""
        if self.seen() is not text:
            return False
        counted = self.version is not None and text.device.type != "cpu"
        return self.version == _version(text) if counted else self.equals(text)

    def equals(self, text: Tensor) -> bool:
        same_kind = (text.shape, text.dtype, text.device) == (self.copy.shape, self.copy.dtype, self.copy.device)
        return same_kind and torch.equal(_words(text), _words(self.copy))

    def meet(self, text: Tensor) -> None:
        """Takes the tensor for the one to come again; outputs are let go with the tensor they were computed for."""
        if self.seen() is not text:
            outputs: dict[int, _Output] = {}
            self.outputs, self.seen = outputs, weakref.ref(text, lambda _: outputs.clear())
        self.version = _version(text)


@dataclass(frozen=True)
class _Output:
    """One projection's output, and the state of everything it came from besides the text."""

    value: Tensor
    version: int | None
    weight: Callable[[], Tensor | None]
    state: tuple[Any, ...]
    checksum: Tensor | None

    @classmethod
    def of(cls, value: Tensor, module: nn.Module, text: Tensor) -> "_Output":
        weight = module.weight
        assert isinstance(weight, Tensor)
        return cls(value, _version(value), weakref.ref(weight), _state(module, text), _checksum(weight))

    def holds_for(self, module: nn.Module, text: Tensor) -> bool:
        """Whether nothing changed since, the kept tensor itself included."""
        if self.weight() is not module.weight or self.state != _state(module, text):
            return False
        if self.version is None or self.version != _version(self.value):
            return False
        return self.checksum is None or torch.equal(self.checksum, _checksum(module.weight))  # type: ignore[arg-type]


def _is_plain(module: nn.Module, base_forward: Callable[[Tensor], Tensor]) -> bool:
    """Whether the output depends on nothing but the text and a weight that stays in the module."""
    hooked = any(name in vars(module) for name in _HOOKS)
    own = getattr(base_forward, "__func__", None) is nn.Linear.forward
    return own and not hooked and type(module.weight) is nn.Parameter and module.bias is None


def _state(module: nn.Module, text: Tensor) -> tuple[Any, ...]:
    """Returns what tells that a module's weight, or the precision it computes in, is another."""
    kind, weight = text.device.type, module.weight
    assert isinstance(weight, Tensor)
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return autocast, weight.data_ptr(), _version(weight), weight.dtype, weight.device


def _checksum(weight: Tensor) -> Tensor | None:
    """Returns each row's sum (O,) of the bits: a weight changed through `.data` leaves no other trace.

    Only on the CPU: elsewhere comparing would make every step wait for the device.
    """
    return _words(weight).sum(dim=1, dtype=torch.int64) if weight.device.type == "cpu" else None


def _words(tensor: Tensor) -> Tensor:
    """Returns the bits as integers, eight bytes to one where rows divide so: quicker to read than short floats."""
    size, tensor = tensor.element_size(), tensor.detach().contiguous()
    if tensor.shape[-1] * size % 8:
        return tensor.view(torch.uint8)
    return (tensor.clone() if tensor.storage_offset() * size % 8 else tensor).view(torch.int64)


def _sum(output: Tensor, residual: Tensor) -> Tensor:
    return output + residual.to(output.device, output.dtype)


def _version(tensor: Tensor) -> int | None:
    """Returns the count of in-place changes, or None for inference tensors, which keep none."""
    return None if tensor.is_inference() else tensor._version


@torch.library.custom_op("cpe::residual", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _residual_op(text: Tensor, output: Tensor, place: Tensor) -> Tensor:
    """Looks a residual up inside compiled code, which runs this each time and keeps one graph for all projections."""
    number, index = place.tolist()
    return _CACHES[number].residual(text, index).to(output.device, output.dtype, copy=True)


@_residual_op.register_fake
def _(text: Tensor, output: Tensor, place: Tensor) -> Tensor:
    return torch.empty_like(output)

"""Residuals of the last prompts, and the projections' outputs for the texts in use: computed once, never stale.

The residual depends on the text alone and is found again by the text's value. The output also depends on the
weights, so it is reused only for the very same text tensor in front of the very same weights: that is one
denoising loop. It goes when the text tensor goes.
"""

# Axes: B prompts, T tokens, D text width, O projection width.

import itertools
import weakref
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

PROMPTS_KEPT = 4
RESIDUALS_MIB = 256
_HOOKS = ("_hf_hook", "_diffusers_hook")  # accelerate's and diffusers': under them weights come and go
_NUMBERS = itertools.count()
_CACHES: "weakref.WeakValueDictionary[int, PromptCache]" = weakref.WeakValueDictionary()


class Residuals(Protocol):
    """What gives the residuals: an eraser."""

    def residuals(self, text: Tensor) -> dict[str, Tensor]:
        """Returns (B, T, O) by module path for a text (B, T, D)."""


class PromptCache:
    """Residuals of the last prompts, and the projections' outputs for the texts in use.

    Args:
        source: gives the residuals for a text.
        sites: the module paths; a projection is known by its place among them.
        active: whether the eraser is on.
        places: tensors that lead compiled code here, one a site; made if None.
    """

    def __init__(
        self, source: Residuals, sites: list[str], active: bool = True, places: list[Tensor] | None = None
    ) -> None:
        self.active, self.sites = active, sites
        self.number = next(_NUMBERS)
        self.reached: set[int] = set()  # places of the projections that were called
        self._source = source
        self._prompts: list[_Prompt] = []
        # Tensors: a compiler need not make one graph a projection. Filled in place: who holds them keeps them.
        self.places = places or [torch.empty(2, dtype=torch.long) for _ in sites]
        for index, place in enumerate(self.places):
            place.copy_(torch.tensor([self.number, index]))
        _CACHES[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._source, self.sites, self.active, self.places)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PromptCache":
        """The same gates, which nobody changes, and nothing kept."""
        return type(self)(self._source, self.sites, self.active, deepcopy(self.places, memo))

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
        self.reached.add(index)
        return self._prompt(text).residuals[self.sites[index]]

    def output(
        self, text: Tensor, index: int, module: nn.Module, base_forward: Callable[[Tensor], Tensor], is_linear: bool
    ) -> Tensor:
        """Returns one projection's output (B, T, O) with its residual, computed or kept.

        Args:
            text: (B, T, D).
            index: the projection's place.
            module: the projection.
            base_forward: gives its own output.
            is_linear: whether that is a linear layer's.
        """
        self.reached.add(index)
        prompt = self._prompt(text)
        residual = prompt.residuals[self.sites[index]]
        if torch.is_grad_enabled() or not (is_linear and _is_plain(module)):  # a graph belongs to one step alone
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
        tracked = _is_tracked(text)  # its residuals belong to its graph, and to nothing else
        alike = (prompt for prompt in self._prompts if not tracked and not prompt.tracked and prompt.equals(text))
        found = next(alike, None)
        if found is None:
            found = _Prompt(text.detach().clone(), self._source.residuals(text), tracked)
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
    """One text's value and residuals (tracked: with gradients), and the outputs for the tensor that holds it now."""

    copy: Tensor
    residuals: dict[str, Tensor]
    tracked: bool = False
    outputs: dict[int, "_Output"] = field(default_factory=dict)
    seen: Callable[[], Tensor | None] = lambda: None
    version: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the residuals."""
        return sum(residual.nbytes for residual in self.residuals.values())

    def is_of(self, text: Tensor) -> bool:
        """Whether this very tensor was met, and not changed since; on the CPU, by value, as `.data` counts nothing."""
        if self.seen() is not text or self.tracked != _is_tracked(text):
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
    parameters: tuple[Callable[[], Tensor | None], ...]
    state: tuple[Any, ...]
    checksums: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, value: Tensor, module: nn.Module, text: Tensor) -> "_Output":
        parameters = _parameters(module)
        state, sums = _state(parameters, text), tuple(map(_checksum, parameters))
        return cls(value, _version(value), tuple(map(weakref.ref, parameters)), state, sums)

    def holds_for(self, module: nn.Module, text: Tensor) -> bool:
        """Whether nothing changed since, the kept tensor itself included."""
        parameters = _parameters(module)
        if len(parameters) != len(self.parameters) or self.state != _state(parameters, text):
            return False
        if any(known() is not parameter for known, parameter in zip(self.parameters, parameters, strict=True)):
            return False
        if self.version is None or self.version != _version(self.value):
            return False
        sums = zip(self.checksums, parameters, strict=True)
        return all(known is None or torch.equal(known, _checksum(now)) for known, now in sums)  # type: ignore[arg-type]


def _is_tracked(text: Tensor) -> bool:
    """Whether gradients are to reach a text: an attack's search, which learns it."""
    return torch.is_grad_enabled() and text.requires_grad


def _is_plain(module: nn.Module) -> bool:
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
    return autocast, *((p.data_ptr(), _version(p), p.dtype, p.device) for p in parameters)


def _checksum(parameter: Tensor) -> Tensor | None:
    """Returns a bias's bits, or each row's sum (O,) of a weight's: changed through `.data` they leave no other trace.

    Only on the CPU: elsewhere comparing would make every step wait for the device.
    """
    if parameter.device.type != "cpu":
        return None
    words = _words(parameter)
    return words.sum(dim=1, dtype=torch.int64) if words.dim() > 1 else words.clone()


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

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

from cpe.models.padding import without_padding
from cpe.models.reused.kept_outputs import KeptOutput, added, bits_of, is_plain, version_of

PROMPTS_KEPT = 4
RESIDUALS_MIB = 256
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
        self.mask: Tensor | None = None  # which tokens the network reads in this call, (B, T); None: all
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

    def read(self, mask: Tensor | None) -> None:
        """Takes over which tokens the network reads from now on, (B, T); the others are padding to the gates too."""
        known = self.mask
        if torch.compiler.is_compiling() or not _equal(known, mask):
            self.mask = mask  # otherwise the same tensor stays: it is what texts are known with

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
        if torch.is_grad_enabled() or not (is_linear and is_plain(module)):  # a graph belongs to one step alone
            return added(base_forward(text), residual)
        kept = prompt.outputs.get(index)
        if kept is None or not kept.holds_for(module, text):
            with torch.inference_mode(False), torch.no_grad():  # normal tensors count their changes in place
                kept = KeptOutput.of(added(base_forward(text), residual), module, text)
            prompt.outputs[index] = kept
        return kept.value

    def _prompt(self, text: Tensor) -> "_Prompt":
        for prompt in self._prompts:
            if prompt.mask is self.mask and prompt.is_of(text):
                return prompt
        tracked = _is_tracked(text)  # its residuals belong to its graph, and to nothing else
        alike = (prompt for prompt in self._prompts if not tracked and not prompt.tracked and self._is_of(prompt, text))
        found = next(alike, None)
        if found is None:
            residuals = self._source.residuals(without_padding(text, self.mask))
            found = _Prompt(text.detach().clone(), residuals, tracked)
        found.mask = self.mask
        found.meet(text)
        others = [prompt for prompt in self._prompts if prompt is not found]
        self._prompts, room = [found], RESIDUALS_MIB * 2**20 - found.size
        for prompt in others[: PROMPTS_KEPT - 1]:
            room -= prompt.size
            if room >= 0:
                self._prompts.append(prompt)
        return found

    def _is_of(self, prompt: "_Prompt", text: Tensor) -> bool:
        """Whether a prompt has this value and as many of its tokens are read."""
        return _equal(prompt.mask, self.mask) and prompt.equals(text)


@dataclass
class _Prompt:
    """One text's value and residuals (tracked: with gradients), and the outputs for the tensor that holds it now."""

    copy: Tensor
    residuals: dict[str, Tensor]
    tracked: bool = False
    outputs: dict[int, "KeptOutput"] = field(default_factory=dict)
    seen: Callable[[], Tensor | None] = lambda: None
    version: int | None = None
    mask: Tensor | None = None

    @property
    def size(self) -> int:
        """Bytes of the residuals."""
        return sum(residual.nbytes for residual in self.residuals.values())

    def is_of(self, text: Tensor) -> bool:
        """Whether this very tensor was met, and not changed since; on the CPU, by value, as `.data` counts nothing."""
        if self.seen() is not text or self.tracked != _is_tracked(text):
            return False
        counted = self.version is not None and text.device.type != "cpu"
        return self.version == version_of(text) if counted else self.equals(text)

    def equals(self, text: Tensor) -> bool:
        same_kind = (text.shape, text.dtype, text.device) == (self.copy.shape, self.copy.dtype, self.copy.device)
        return same_kind and torch.equal(bits_of(text), bits_of(self.copy))

    def meet(self, text: Tensor) -> None:
        """Takes the tensor for the one to come again; outputs are let go with the tensor they were computed for."""
        if self.seen() is not text:
            outputs: dict[int, KeptOutput] = {}
            self.outputs, self.seen = outputs, weakref.ref(text, lambda _: outputs.clear())
        self.version = version_of(text)


def forget(source: Residuals) -> None:
    """Lets go what networks keep of a source's residuals: the one that it is attached to, and copies of that."""
    for cache in [*_CACHES.values()]:
        if cache._source is source:
            active = cache.active
            cache.close()
            cache.active = active


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two masks say the same."""
    if one is None or other is None or one is other:
        return one is other
    return one.shape == other.shape and torch.equal(one, other.to(one.device))


def _is_tracked(text: Tensor) -> bool:
    """Whether gradients are to reach a text: an attack's search, which learns it."""
    return torch.is_grad_enabled() and text.requires_grad


@torch.library.custom_op("cpe::residual", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _residual_op(text: Tensor, output: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
    """Looks a residual up inside compiled code, which runs this each time and keeps one graph for all projections."""
    number, index = place.tolist()
    _CACHES[number].read(mask)
    return _CACHES[number].residual(text, index).to(output.device, output.dtype, copy=True)


@_residual_op.register_fake
def _(text: Tensor, output: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
    return torch.empty_like(output)

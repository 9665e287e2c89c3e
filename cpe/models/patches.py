"""The single attributes that an attachment puts on a network's modules and on a pipeline, and how each comes off.

They are objects, not closures: copied or pickled with their module, each goes on with the copy and its own attachment.
"""

# Axes: B prompts, T tokens, D text width, O projection width.

import inspect
import warnings
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cpe.models.reused.prompt_cache import PromptCache

_FORWARDS = ("forward", "_old_forward")  # the second is where accelerate's hooks keep what they wrap


class Attached(Protocol):
    """What a patch belongs to."""

    @property
    def active(self) -> bool:
        """Whether it is on."""

    def check_pipeline(self, pipe: Any) -> None:
        """Raises where a call of the pipeline would draw what was erased."""

    def remove(self) -> None:
        """Takes it off."""


class Keeping(Attached, Protocol):
    """An attachment that keeps what it computed."""

    cache: PromptCache


class Patch:
    """One attribute of one object while an eraser is attached, and what was there before.

    Args:
        attachment: what it belongs to; once that is taken off, calls are handed through.
        owner: the module or pipeline.
        name: the attribute.
    """

    def __init__(self, attachment: Attached, owner: Any, name: str) -> None:
        self.attachment, self.owner, self.name = attachment, owner, name
        self.had, self.before = name in vars(owner), vars(owner).get(name)
        self.value = self.as_value()
        vars(owner)[name] = self.value

    def as_value(self) -> Any:
        """What the attribute becomes."""
        return self

    @property
    def original(self) -> Any:
        """What would be called without the patch."""
        # Bound anew each time: pickled, a bound method would be looked up by its name, and be the patch itself.
        kind = type(self.owner)
        return self.before if self.had else inspect.getattr_static(kind, self.name).__get__(self.owner, kind)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.attachment.active:
            self.meet(*args, **kwargs)
        return self.original(*args, **kwargs)

    def meet(self, *args: Any, **kwargs: Any) -> None:
        """What is done before each call; raises where the call must not be."""

    def undo(self) -> None:
        """Restores the attribute, wherever a hook put on or taken off since has moved it."""
        kept = vars(self.owner)
        for name in _FORWARDS if self.name in _FORWARDS else (self.name,):
            if kept.get(name) is self.value:
                if self.had:
                    kept[name] = self.before
                elif name == self.name:
                    del kept[name]
                else:
                    kept[name] = type(self.owner).forward.__get__(self.owner)


class ErasedForward(Patch):
    """A projection's forward: its own output (B, T, O) and the residual of the text (B, T, D)."""

    attachment: Keeping

    def __init__(self, attachment: Keeping, owner: nn.Module, index: int) -> None:
        # Inside a hook, not around it: whoever takes the hook off puts back what it wraps.
        super().__init__(attachment, owner, "_old_forward" if "_old_forward" in vars(owner) else "forward")
        self.index, self.place = index, attachment.cache.places[index]

    @property
    def cache(self) -> PromptCache:
        return self.attachment.cache

    def base(self, text: Tensor) -> Tensor:
        """Returns the projection's own output (B, T, O)."""
        return self.before(text) if self.had else type(self.owner).forward(self.owner, text)

    @property
    def is_linear(self) -> bool:
        """Whether `base` is a plain linear layer's."""
        own = getattr(self.before, "__func__", None) if self.had else type(self.owner).forward
        return own is nn.Linear.forward

    def as_value(self) -> Any:
        return self.forward  # a method: a compiler makes one graph of all projections' methods, and one of each object

    def forward(self, text: Tensor) -> Tensor:
        """Returns the projection's output (B, T, O) with its residual."""
        if torch.compiler.is_compiling():
            output = self.base(text)
            if not self.attachment.cache.active:
                return output
            return output + torch.ops.cpe.residual(
                text.detach(), output.detach(), self.place, self.attachment.cache.mask
            )
        if not self.cache.active:
            return self.base(text)
        return self.cache.output(text, self.index, self.owner, self.base, self.is_linear)


class RefusedFusing(Patch):
    """Fusing key and value projections; a pipeline may fuse its VAE alone."""

    def meet(self, unet: bool = True, vae: bool = True) -> None:
        if unet:
            raise RuntimeError(
                "fusing joins key and value projections into a new one, which bypasses the attached gates; "
                "detach the eraser first (leave its `with` block or call detach())"
            )


class ForgottenOutputs(Patch):
    """What changes weights in a way that leaves no trace on an accelerator."""

    attachment: Keeping

    def meet(self, *args: Any, **kwargs: Any) -> None:
        self.attachment.cache.forget_outputs()


class WarnedSaving(Patch):
    """Saving the network, which saves it untouched."""

    def meet(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            f"{type(self.owner).__name__}.save_pretrained saves the untouched model while an eraser is attached: gates "
            "are no part of its weights, and what is loaded from that folder draws what was erased. Keep the gates' "
            "files with it, and after loading call Eraser.load(gates).attach(pipe)",
            UserWarning,
            stacklevel=4,
        )


class WholeStateAlone(Patch):
    """A projection's state as part of the whole network's: taken apart from it, another network is being built."""

    def __init__(self, attachment: Attached, owner: nn.Module, path: str) -> None:
        super().__init__(attachment, owner, "state_dict")
        self.path = path

    def meet(self, *args: Any, prefix: str = "", **kwargs: Any) -> None:
        if f"{self.path}." not in prefix:
            raise RuntimeError(
                f"the weights of {self.path} are being copied out of a network with an eraser attached, as AnimateDiff "
                "and ControlNets do to build another one: what is built so would draw what was erased. Call "
                "cpe.detach(pipe), build it, then attach to what was built"
            )


class CheckedCall(Patch):
    """What every call of a pipeline passes: the pipeline must still have the network that was attached to."""

    def meet(self, *args: Any, **kwargs: Any) -> None:
        self.attachment.check_pipeline(self.owner)

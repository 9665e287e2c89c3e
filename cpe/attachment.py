"""What an attached eraser puts on a U-Net, and how it comes off again.

A projection's output is its module's own plus the residual. Whatever sits around the projection (LoRA layers,
offload hooks, a compiler) stays around it, in any order of attaching and taking off.
"""

# Axes: B prompts, T tokens, D text width, O projection width.

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cpe.prompt_cache import PromptCache

_ABSENT = object()
_FORWARDS = ("forward", "_old_forward")  # the second is where accelerate's hooks keep what they wrap
_FUSED = (
    "fusing joins key and value projections into a new one, which bypasses the attached gates; "
    "detach the eraser first (leave its `with` block or call detach())"
)


class Attachment:
    """Residuals on the projections of one U-Net, until `remove`.

    Args:
        pipe: the pipeline or U-Net.
        unet: its U-Net, not compiled.
        projections: modules by path, checked to be those of the gates.
        residuals: gives the residuals (B, T, O) by module path for a text (B, T, D).
    """

    def __init__(
        self,
        pipe: Any,
        unet: nn.Module,
        projections: Mapping[str, nn.Module],
        residuals: Callable[[Tensor], dict[str, Tensor]],
    ) -> None:
        self._cache = PromptCache(residuals, list(projections))
        self._patches: list[_Patch] = []
        for index, module in enumerate(projections.values()):
            # Inside a hook, not around it: whoever takes the hook off puts back what it wraps.
            name = "_old_forward" if "_old_forward" in vars(module) else "forward"
            self._put(module, name, _erased_forward(self._cache, index, module, getattr(module, name)))
            self._put(module, "cpe_attached", True)
        crossed = [module for name, module in unet.named_modules() if name.endswith("attn2")]
        around: dict[str, Callable[..., Any]] = {"fuse_qkv_projections": _refusing, "fuse_projections": _refusing}
        around |= {"fuse_lora": _forgetting, "unfuse_lora": _forgetting}
        for owner, (name, guard) in itertools.product([unet, *crossed], around.items()):
            if hasattr(owner, name):
                self._put(owner, name, guard(self._cache, getattr(owner, name)))
        if pipe is not unet and hasattr(pipe, "fuse_qkv_projections"):
            self._put(pipe, "fuse_qkv_projections", _refusing_unet(self._cache, pipe.fuse_qkv_projections))

    def remove(self) -> None:
        """Takes everything off; where another tool wrapped a forward since, ours hands through from now on."""
        self._cache.close()
        for patch in reversed(self._patches):
            patch.undo()

    def _put(self, owner: Any, name: str, value: Any) -> None:
        self._patches.append(_Patch(owner, name, value, vars(owner).get(name, _ABSENT)))
        vars(owner)[name] = value


@dataclass(frozen=True)
class _Patch:
    """One attribute of one object, and what was there before."""

    owner: Any
    name: str
    value: Any
    before: Any

    def undo(self) -> None:
        """Restores the attribute, wherever a hook put on or taken off since has moved it."""
        kept = vars(self.owner)
        for name in _FORWARDS if self.name in _FORWARDS else (self.name,):
            if kept.get(name) is self.value:
                if self.before is not _ABSENT:
                    kept[name] = self.before
                elif name == self.name:
                    del kept[name]
                else:
                    kept[name] = type(self.owner).forward.__get__(self.owner)


def _erased_forward(
    cache: PromptCache, index: int, module: nn.Module, base_forward: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    place = torch.tensor([cache.number, index])  # a tensor: a compiler need not make one graph a projection

    def forward(text: Tensor) -> Tensor:
        if not cache.active:
            return base_forward(text)
        if torch.compiler.is_compiling():
            output = base_forward(text)
            return output + torch.ops.cpe.residual(text.detach(), output.detach(), place)
        return cache.output(text, index, module, base_forward)

    return forward


def _refusing(cache: PromptCache, fuse: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if cache.active:
            raise RuntimeError(_FUSED)
        return fuse(*args, **kwargs)

    return refuse


def _refusing_unet(cache: PromptCache, fuse: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(unet: bool = True, vae: bool = True) -> Any:  # a pipeline may fuse its VAE alone
        if unet and cache.active:
            raise RuntimeError(_FUSED)
        return fuse(unet=unet, vae=vae)

    return refuse


def _forgetting(cache: PromptCache, change: Callable[..., Any]) -> Callable[..., Any]:
    def forget(*args: Any, **kwargs: Any) -> Any:
        cache.forget_outputs()
        return change(*args, **kwargs)

    return forget

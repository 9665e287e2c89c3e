"""What an attached eraser puts on a network, how it is checked at every call, and how it comes off again.

A projection's output is its module's own plus the residual. Whatever sits around the projection (LoRA layers,
offload hooks, a compiler) stays around it, in any order of attaching and taking off. The attachment lives on the
network, goes with its copies, and raises where a call would pass its projections by.
"""

import inspect
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cpe.models.families.table import family_of, network_in, no_family
from cpe.models.patches import (
    CheckedCall,
    ErasedForward,
    ForgottenOutputs,
    Patch,
    RefusedFusing,
    WarnedSaving,
    WholeStateAlone,
)
from cpe.models.reused.prompt_cache import PromptCache, Residuals
from cpe.models.sites import innermost, is_fused

ATTRIBUTE = "_cpe_attachment"
_ORDER = "first quantise, replace or build, then attach; cpe.detach(pipe) takes the eraser off"


def detach(pipe: Any) -> None:
    """Takes an eraser off a pipeline or network, also one that nothing holds any more; does nothing if none is on.

    Example:
        >>> from cpe import Eraser, fetch, load_pipeline
        >>> pipe = load_pipeline("embedded", device="cpu")
        >>> Eraser.load(fetch("models:/cpe-few@champion")).attach(pipe)
        >>> detach(pipe)

    Args:
        pipe: the pipeline or the network; a copy of an attached one has an eraser of its own on it.
    """
    network = network_in(pipe)
    known = [vars(network).get(ATTRIBUTE)] if network is not None else []
    guards = [patch for patch in vars(pipe).values() if isinstance(patch, CheckedCall | RefusedFusing)]
    for attachment in known + [guard.attachment for guard in guards]:
        if attachment is not None:
            attachment.remove()
    for guard in guards:
        guard.undo()


def network_of(pipe: Any) -> nn.Module:
    """Returns the network of a pipeline, or the network itself, out of a compiler's wrapping.

    Raises:
        ValueError: there is none.
    """
    if (network := network_in(pipe)) is None:
        raise ValueError(no_family(pipe))
    return network


def attachment_at(module: nn.Module) -> "Attachment | None":
    """Returns the attachment that is on a projection or network, if one is."""
    known = [vars(module).get(ATTRIBUTE)]
    known += [patch.attachment for patch in vars(module).values() if isinstance(patch, Patch)]
    return next((attachment for attachment in known if attachment is not None and attachment.active), None)


class Attachment:
    """Residuals on the projections of one network, until `remove`.

    Args:
        pipe: the pipeline or network.
        network: its network, not compiled.
        projections: modules by path, checked to be those of the gates, out of LoRA's wrapping.
        residuals: gives the residuals (B, T, O) by module path for a text (B, T, D).
    """

    def __init__(
        self, pipe: Any, network: nn.Module, projections: Mapping[str, nn.Module], residuals: Residuals
    ) -> None:
        self.network, self.cache = network, PromptCache(residuals, list(projections))
        self._links = list(_links(network, projections))
        self._attentions = [network.get_submodule(path) for path in sorted({p.rpartition(".")[0] for p in projections})]
        self._projections = list(projections.values())
        self._patches: list[Patch] = []
        self._state: list[Any] | None = None
        self._used = False  # whether a call passed every projection in this state
        for index, (path, module) in enumerate(projections.items()):
            self._patches.append(ErasedForward(self, module, index))
            self._patches.append(WholeStateAlone(self, module, path))
        kinds: dict[str, type[Patch]] = {"fuse_qkv_projections": RefusedFusing, "fuse_projections": RefusedFusing}
        kinds |= {"fuse_lora": ForgottenOutputs, "unfuse_lora": ForgottenOutputs, "save_pretrained": WarnedSaving}
        for owner in [network, *self._attentions]:
            self._patches += [kind(self, owner, name) for name, kind in kinds.items() if hasattr(owner, name)]
        # Hooks and no patch: they run around whatever else is put on the network's forward.
        before = network.register_forward_pre_hook(self._before, with_kwargs=True)
        self._hooks = [before, network.register_forward_hook(self._after)]
        self._family, self._names = family_of(network), list(inspect.signature(type(network).forward).parameters)[1:]
        vars(network)[ATTRIBUTE] = self
        self._pipe: Any = None
        if pipe is not network and not isinstance(pipe, nn.Module):
            self._pipe = weakref.ref(pipe)
            around: dict[str, type[Patch]] = {"encode_prompt": CheckedCall, "progress_bar": CheckedCall}
            for name, kind in (around | {"fuse_qkv_projections": RefusedFusing}).items():
                if hasattr(pipe, name):
                    kind(self, pipe, name)

    def __getstate__(self) -> dict[str, Any]:
        """A copied network takes its attachment along, not the pipeline; its calls are checked anew."""
        return {**vars(self), "_pipe": None, "_state": None, "_used": False}

    @property
    def active(self) -> bool:
        """Whether it is on; once taken off, what is left of it somewhere hands through."""
        return self.cache.active

    def remove(self) -> None:
        """Takes everything off; where another tool wrapped a forward since, ours hands through from now on."""
        self.cache.close()
        for patch in reversed(self._patches):
            patch.undo()
        for hook in self._hooks:
            hook.remove()
        if vars(self.network).get(ATTRIBUTE) is self:
            del vars(self.network)[ATTRIBUTE]
        pipe = self._pipe and self._pipe()
        for patch in [*vars(pipe).values()] if pipe is not None else []:
            if isinstance(patch, Patch) and patch.attachment is self:
                patch.undo()

    def check(self) -> None:
        """Checks that every projection is still the one that was attached to.

        Raises:
            RuntimeError: one was replaced, or a module above it.
        """
        for place, (parent, name, child, path) in enumerate(self._links):
            now = parent._modules.get(name)
            if now is child:
                continue
            if now is None or innermost(now) is not innermost(child):
                raise RuntimeError(
                    f"{path} of {type(self.network).__name__} is another module ({type(now).__name__}) than the eraser "
                    f"was attached to, so it would draw what was erased: {_ORDER}"
                )
            self._links[place] = (parent, name, now, path)

    def check_pipeline(self, pipe: Any) -> None:
        """Checks the projections, and that the pipeline's network is the one attached to or one erased by itself.

        Raises:
            RuntimeError: it is not.
        """
        network = network_in(pipe)
        if network is not self.network:
            within = network.modules() if network is not None else ()
            if not any(module is self.network or attachment_at(module) for module in within):
                raise RuntimeError(
                    f"the network of this {type(pipe).__name__} ({type(network).__name__}) is another one than the "
                    f"eraser was attached to, so it would draw what was erased: {_ORDER}"
                )
        self.check()

    def _before(self, network: nn.Module, args: Any, kwargs: Any) -> None:
        if self._family is not None:
            self.cache.read(self._family.padding({**dict(zip(self._names, args, strict=False)), **kwargs}))
        if torch.compiler.is_compiling():  # compiled code has no room for it; the pipeline's call checks instead
            return
        self.check()
        state: list[Any] = [vars(module).get("forward") for module in self._projections]
        state += [attention.processor for attention in self._attentions if hasattr(attention, "processor")]
        state += [vars(attention).get("fused_projections") for attention in self._attentions]
        if state != self._state:
            self._state, self._used, self.cache.reached = state, False, set()

    def _after(self, network: nn.Module, args: Any, output: Any) -> None:
        """Decides by what was computed whether the projections were used, once in each state they are in.

        Later calls may leave some out: whoever caches an attention's output does, with what they gave before.
        """
        if self._used or torch.compiler.is_compiling():
            return
        missing = [site for index, site in enumerate(self.cache.sites) if index not in self.cache.reached]
        if missing:
            attention = network.get_submodule(missing[0].rpartition(".")[0])
            how = (
                "fused projections"
                if is_fused(attention)
                else type(getattr(attention, "processor", attention)).__name__
            )
            raise RuntimeError(
                f"{type(network).__name__} passed by {len(missing)} of {len(self.cache.sites)} projections with gates "
                f"({missing[0]}; keys and values come from {how}), so it drew what was erased: undo what changed its "
                f"attentions (unfuse_qkv_projections(), set_attn_processor()), or {_ORDER}"
            )
        self._used = True


def _links(network: nn.Module, projections: Mapping[str, nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Module, str]]:
    """Yields every step down from the network to a projection once: parent, name, child and its path."""
    seen = set()
    for site in projections:
        parent, path = network, ""
        for name in site.split("."):
            path = f"{path}.{name}".lstrip(".")
            child = parent.get_submodule(name)
            if path not in seen:
                seen.add(path)
                yield parent, name, child, path
            parent = child

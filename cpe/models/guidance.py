"""A negative prompt put on a pipeline and its network, until it is taken off again.

Where the pipeline guides, the words go in front of its own negative prompt. Where it does not, and where the network is
called by itself, the network guides itself:

    v(x, negative) + g (v(x, text) − v(x, negative))

which takes two rows for each of its own, in the order in which a pipeline has them.
"""

# Axes: B rows of a call, T tokens, D text width.

import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cpe.models.attachment import ATTRIBUTE, network_of
from cpe.models.edits import check_free
from cpe.models.families.table import network_in, sites_of
from cpe.models.patches import CheckedCall, Patch, WarnedSaving, WholeStateAlone
from cpe.models.sites import innermost, widths_of

CONDITIONS = ("class_labels", "timestep_cond", "added_cond_kwargs")  # of a network, besides its text


class NegativePrompt:
    """A negative prompt on one network, and on the pipeline that it was attached by.

    Args:
        pipe: the pipeline, or the network itself.
        words: what to keep away from.
        text: their embedding, (T, D).
        guidance_scale: g, above 1.

    Raises:
        ValueError: the network has another text width.
        RuntimeError: something that erases is on it already.
    """

    def __init__(self, pipe: Any, words: str, text: Tensor, guidance_scale: float) -> None:
        sites = sites_of(pipe)
        self.network, self.active = network_of(pipe), True
        width = widths_of(next(iter(sites.values())))[1]
        if text.shape[1] != width:
            raise ValueError(
                f"the negative prompt is {text.shape[1]} wide, the pipeline's text {width}; was it made for another "
                "base model?"
            )
        check_free(self.network, sites)
        self.words, self.text, self.guidance_scale = words, text, guidance_scale
        self.given: Tensor | None = None  # by the pipeline that is drawing with guidance: its negative prompts
        self._patches: list[Patch] = [GuidedForward(self, self.network)]
        self._patches += [WholeStateAlone(self, innermost(module), path) for path, module in sites.items()]
        if hasattr(self.network, "save_pretrained"):
            self._patches.append(WarnedSaving(self, self.network, "save_pretrained"))
        vars(self.network)[ATTRIBUTE] = self
        self._pipe: Any = None
        if pipe is not self.network and not isinstance(pipe, nn.Module):
            self._pipe = weakref.ref(pipe)
            NegativeWords(self, pipe, "encode_prompt")

    def __getstate__(self) -> dict[str, Any]:
        """A copied network takes its negative prompt along, not the pipeline."""
        return {**vars(self), "_pipe": None, "given": None}

    def remove(self) -> None:
        """Takes everything off."""
        self.active = False
        for patch in reversed(self._patches):
            patch.undo()
        if vars(self.network).get(ATTRIBUTE) is self:
            del vars(self.network)[ATTRIBUTE]
        pipe = self._pipe and self._pipe()
        for patch in [*vars(pipe).values()] if pipe is not None else []:
            if isinstance(patch, Patch) and patch.attachment is self:
                patch.undo()

    def check_pipeline(self, pipe: Any) -> None:
        """Checks that a pipeline's network is the one attached to.

        Raises:
            RuntimeError: it is not.
        """
        if network_in(pipe) is not self.network:
            raise RuntimeError(
                f"the network of this {type(pipe).__name__} is another one than the negative prompt was attached to, "
                "so it would draw what was erased: first quantise, replace or build, then attach; cpe.detach(pipe) "
                "takes the eraser off"
            )

    def joined(self, own: str | Sequence[str]) -> str | list[str]:
        """Returns negative prompts with the words in front."""
        if isinstance(own, str):
            return f"{self.words}, {own}" if own else self.words
        return [f"{self.words}, {each}" if each else self.words for each in own]

    def guides(self, text: Tensor) -> bool:
        """Whether a call of the network is one of a pipeline that guides with these words: its first row is theirs."""
        given = self.given
        return given is not None and torch.equal(text[:1], given[:1].to(text))


class NegativeWords(CheckedCall):
    """A pipeline's `encode_prompt`, which gives the words to every negative prompt of a call with guidance."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        attached: Any = self.attachment
        if not attached.active:
            return self.original(*args, **kwargs)
        attached.check_pipeline(self.owner)
        asked = inspect.signature(self.original).bind(*args, **kwargs)
        asked.apply_defaults()
        values, attached.given = asked.arguments, None
        if not values["do_classifier_free_guidance"]:
            return self.original(*args, **kwargs)
        if values.get("negative_prompt_embeds") is not None:
            raise ValueError(
                "negative_prompt_embeds cannot be joined with the erased names; give words as negative_prompt, or take "
                "the negative prompt off with cpe.detach(pipe)"
            )
        own, prompt = values["negative_prompt"], values["prompt"]
        if own is None:  # as many as prompts, and of their kind: so pipelines ask for them
            own = "" if isinstance(prompt, str) else [""] * len(values["prompt_embeds"] if prompt is None else prompt)
        values["negative_prompt"] = attached.joined(own)
        if values.get("negative_prompt_2"):
            values["negative_prompt_2"] = attached.joined(values["negative_prompt_2"])
        encoded = self.original(*asked.args, **asked.kwargs)
        attached.given = encoded[1]
        return encoded


class GuidedForward(Patch):
    """A network's forward, guided away from the words where no pipeline does it.

    Args:
        attachment: the negative prompt.
        owner: the network.
    """

    def __init__(self, attachment: NegativePrompt, owner: nn.Module) -> None:
        # Inside a hook of offloading, not around it: whoever takes the hook off puts back what it wraps.
        super().__init__(attachment, owner, "_old_forward" if "_old_forward" in vars(owner) else "forward")

    def as_value(self) -> Any:
        return self.forward

    def base(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives by itself."""
        return self.before(*args, **kwargs) if self.had else type(self.owner).forward(self.owner, *args, **kwargs)

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns what the network is asked for, as the network itself would.

        Raises:
            RuntimeError: the network has conditions besides its text, of which the negative prompt's are not known.
        """
        attached: Any = self.attachment
        text = encoder_hidden_states
        if not attached.active or attached.guides(text):
            return self.base(sample, timestep, text, *args, **kwargs)
        if args or any(kwargs.get(name) is not None for name in CONDITIONS):
            raise RuntimeError(
                f"{type(self.owner).__name__} has conditions besides its text, so the negative prompt needs a pipeline "
                "that draws with guidance: ask for a guidance_scale above 1"
            )
        negative = attached.text.to(text)
        if negative.shape != text.shape[1:]:
            raise RuntimeError(
                f"the negative prompt has {len(negative)} tokens, the prompt {text.shape[1]}; draw with guidance, or "
                "with prompts of the text encoder's own length"
            )
        both = torch.cat([negative.expand(len(text), -1, -1), text])  # (2B, T, D)
        sample, timestep, kwargs = (_twice(value, len(text)) for value in (sample, timestep, kwargs))
        said = self.base(sample, timestep, both, **kwargs)
        away, towards = (said[0] if isinstance(said, tuple) else said.sample).chunk(2)
        guided = away + attached.guidance_scale * (towards - away)
        return (guided, *said[1:]) if isinstance(said, tuple) else type(said)(sample=guided)


def _twice(value: Any, rows: int) -> Any:
    """Returns what a call was given for its rows, for twice as many."""
    if isinstance(value, Tensor) and value.dim() and len(value) == rows:
        return torch.cat([value, value])
    if isinstance(value, tuple | list):
        return type(value)(_twice(each, rows) for each in value)
    if isinstance(value, dict):
        return {name: _twice(each, rows) for name, each in value.items()}
    return value

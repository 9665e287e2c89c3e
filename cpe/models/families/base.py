"""What a family of base models is: where its network is, where text enters it, and what those places see."""

# Axes: B prompts, T tokens, D text width.

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.utils import is_bs4_available, is_ftfy_available
from torch import Tensor, nn


class Family(ABC):
    """A family of text-to-image models.

    Attributes:
        name: for people.
    """

    name: str

    @abstractmethod
    def owns(self, pipe: Any) -> bool:
        """Whether a pipeline of diffusers, or a network itself, is of this family."""

    @abstractmethod
    def network(self, pipe: Any) -> nn.Module:
        """Returns the network that denoises, as the pipeline holds it (a compiler's wrapping included)."""

    @abstractmethod
    def sites(self, network: nn.Module) -> dict[str, nn.Linear]:
        """Returns the key and value projections of every attention to the text, by module path.

        Raises:
            ValueError: the network has none that the methods cover.
        """

    @abstractmethod
    def texts(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        """Returns what the sites see of prompts, (B, T, D), on the pipeline's device.

        Padding that the network leaves out is rows of zeros (`cpe.models.padding`).
        """

    def way(self, network: nn.Module) -> list[nn.Module]:
        """Returns the modules of the network that a prompt's embedding passes, in order, before the sites see it."""
        return []

    def padding(self, values: Mapping[str, Any]) -> Tensor | None:
        """Returns which tokens a call of the network has it read, (B, T); None: all, in every call.

        Args:
            values: the call's arguments by name.
        """
        return None


def as_drawn(pipe: Any, prompts: Sequence[str], **given: Any) -> Any:
    """Returns what a pipeline's `encode_prompt` gives for prompts, with the settings that it would have to draw them.

    Args:
        pipe: the pipeline.
        prompts: B texts.
        given: further arguments.
    """
    known = inspect.signature(pipe.encode_prompt).parameters
    options = settings_of(pipe)
    # The device is the pipeline's own choice when it draws.
    options |= {
        "device": pipe._execution_device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
        **given,
    }
    return pipe.encode_prompt(list(prompts), **{name: value for name, value in options.items() if name in known})


def settings_of(pipe: Any) -> dict[str, Any]:
    """Returns the settings by which a pipeline reads prompts when it draws, its own defaults."""
    names = ("max_sequence_length", "clean_caption", "complex_human_instruction", "mask_feature")
    own = inspect.signature(type(pipe).__call__).parameters
    options = {name: own[name].default for name in names if name in own}
    if options.get("clean_caption") and not (is_bs4_available() and is_ftfy_available()):
        options["clean_caption"] = False  # as the pipeline itself does then, with a warning a call
    return options

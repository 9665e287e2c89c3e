"""What a family of base models is: where its network is, where text enters it, and what those places see."""

# Axes: B prompts, T tokens, D text width.

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Family(ABC):
    """A family of text-to-image models.

    Attributes:
        name: for people.
    """

    name: str

    @abstractmethod
    def owns(self, pipe: Any) -> bool:
        """Whether a pipeline of diffusers is of this family."""

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
        """Returns what the sites see of prompts, (B, T, D), on the pipeline's device."""

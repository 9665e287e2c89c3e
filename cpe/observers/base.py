"""What looks at pictures: one interface for classifiers, detectors and feature extractors.

An observer gives values a picture; scores over them are pure functions elsewhere. What cannot be had here is no
error of the evaluation: `Missing` says in one line how to get it, and everything else goes on.
"""

# Axes: P pictures.

from abc import ABC, abstractmethod
from collections.abc import Sequence

from numpy.typing import NDArray
from PIL.Image import Image


class Missing(RuntimeError):  # noqa: N818 - a hole in the evaluation, no fault
    """An observer that cannot work here; the message is one line: what is missing and how to get it."""


class Observer(ABC):
    """Looks at pictures.

    Attributes:
        name: short, such as "clip"; names its stored values.
        identity: everything that determines its values (hash of weights, thresholds, version of the code).
    """

    name: str
    identity: str

    @abstractmethod
    def look(self, pictures: Sequence[Image], prompts: Sequence[str]) -> dict[str, NDArray]:
        """Returns values by name, each an array whose first axis is the pictures, in their order.

        Args:
            pictures: P pictures in RGB.
            prompts: what each was drawn from, P texts.

        Returns:
            Arrays (P, …) of numbers, or (P,) of text, where "" means that nothing was recognised. A picture's values
            do not depend on the others it is shown with.
        """

    def close(self) -> None:  # noqa: B027 - most observers hold nothing
        """Gives back what the observer holds besides memory, such as a program; it looks at nothing afterwards."""

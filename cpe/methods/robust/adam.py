"""Adam whose rows have ages of their own, since learned texts are begun anew one by one."""

import torch
from torch import Tensor

MEAN_SHARE, SQUARE_SHARE, LEAST = 0.9, 0.99, 1e-8


class Adam:
    """What moves, and what is remembered of its gradients.

    Args:
        value: what moves, (rows, …).
    """

    def __init__(self, value: Tensor) -> None:
        self.value, self.mean, self.square = value, torch.zeros_like(value), torch.zeros_like(value)
        self.age = value.new_zeros(len(value), *[1] * (value.dim() - 1))  # steps taken, (rows, 1, …)

    def step(self, gradient: Tensor, rate: float) -> None:
        """Moves every row once."""
        self.age += 1
        self.mean.lerp_(gradient, 1 - MEAN_SHARE)
        self.square.lerp_(gradient.square(), 1 - SQUARE_SHARE)
        spread = (self.square / (1 - SQUARE_SHARE**self.age)).sqrt() + LEAST
        self.value -= rate * self.mean / (1 - MEAN_SHARE**self.age) / spread

    def begin_anew(self, row: int, value: Tensor) -> None:
        """Puts another value in a row's place, of which nothing is remembered."""
        self.value[row] = value
        for part in (self.mean, self.square, self.age):
            part[row] = 0

    def state(self) -> dict[str, Tensor]:
        """Returns all that the next step depends on."""
        return {"value": self.value, "mean": self.mean, "square": self.square, "age": self.age}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Goes on from a state."""
        for name, part in self.state().items():
            part.copy_(state[name])

"""Takes a phase's steps with AdamW; on a GPU as one recorded graph.

A step is a few hundred small operations. On a GPU launching them one by one takes longer than they do, so the step is
recorded once as a CUDA graph and replayed. A recording is trusted only after it has given what the step itself gives.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cpe.methods.pinpoint.phases.erase import ErasePhase
from cpe.methods.pinpoint.phases.search import AttackPhase

LOG = logging.getLogger(__name__)
WARM_UPS = 3  # before a recording, so that libraries have set themselves up
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]  # takes a step, returns what replays it
TOLERANCE = 1e-3  # relative; sums on a GPU may run in another order each time


class Stepper:
    """Takes a phase's steps.

    Args:
        phase: what draws, and computes losses and gradient.
        state: Adam's state to go on from, by name; empty for a fresh one.
        capture: how a step is recorded; by default as a CUDA graph on a GPU, and not at all elsewhere.
    """

    def __init__(
        self, phase: ErasePhase | AttackPhase, state: dict[str, Tensor], capture: Capture | None = None
    ) -> None:
        self.phase, moving = phase, phase.moving
        self.capture = capture or (cuda_graph if moving.is_cuda else None)
        # A recording reads the rate at its place, on a GPU in single precision.
        self.rate = torch.zeros((), dtype=torch.float32 if moving.is_cuda else torch.float64, device=moving.device)
        self.optimizer = torch.optim.AdamW(
            [moving], lr=self.rate, weight_decay=phase.config.weight_decay, fused=True, capturable=moving.is_cuda
        )
        if state:
            self.optimizer.state[moving] = {name: value.clone() for name, value in state.items()}
        self.take: Callable[[], Tensor] | None = None

    def step(self, rate: float) -> Tensor:
        """Draws, moves at a learning rate, and returns the losses before that, (3, N)."""
        self.phase.draw()
        self.rate.fill_(rate)
        if self.take is None:  # only now are there texts to compare a recording on
            self.take = self._take if self.capture is None else self._recorded(self.capture)
        return self.take().clone()

    def state(self) -> dict[str, Tensor]:
        """Returns Adam's state, which moves with every step."""
        return dict(self.optimizer.state[self.phase.moving])

    def _take(self) -> Tensor:
        losses = self.phase.compute()
        self.optimizer.step()
        return losses

    def _recorded(self, capture: Capture) -> Callable[[], Tensor]:
        """Returns what replays a step, or takes it where the device cannot record; nothing has moved afterwards."""
        moving, fresh = self.phase.moving, not self.optimizer.state[self.phase.moving]
        before = moving.clone()
        if fresh:
            self._take()  # Adam makes its state in its first step
            moving.copy_(before)
            for value in self.state().values():
                value.zero_()
        try:
            return record(self._take, [moving, *self.state().values()], capture)
        except RuntimeError as error:
            LOG.warning("training steps are not recorded, which makes them slower: %s", error)
            return self._take


def record(take: Callable[[], Tensor], moved: Sequence[Tensor], capture: Capture) -> Callable[[], Tensor]:
    """Returns a recording of a step that has been found to do what the step does; everything is as it was before.

    Args:
        take: takes a step and returns its losses.
        moved: every tensor that a step changes and a later one reads.
        capture: records what a function does, and returns a function that does it again.

    Raises:
        RuntimeError: it cannot be recorded, or the recording does something else.
    """
    kept = [tensor.clone() for tensor in moved]

    def done(step: Callable[[], Tensor]) -> list[Tensor]:
        """Returns the losses and changed tensors of a step, and takes it back."""
        found = [tensor.clone() for tensor in (step(), *moved)]
        put_back()
        return found

    def put_back() -> None:
        for tensor, value in zip(moved, kept, strict=True):
            tensor.copy_(value)

    try:
        expected = done(take)
        replay = capture(take)
        put_back()
        for _ in range(2):  # the second time over what the first one left
            if not all(_close(a, b) for a, b in zip(done(replay), expected, strict=True)):
                raise RuntimeError("the recorded step differs from the step itself")
        return replay
    finally:
        put_back()


def cuda_graph(take: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Records a step as a CUDA graph, after some warm-up steps, and returns what replays it."""
    with torch.cuda.device(take().device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                take()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = take()

    def replay() -> Tensor:
        graph.replay()
        return losses

    return replay


def _close(found: Tensor, expected: Tensor) -> bool:
    distance = torch.linalg.vector_norm((found - expected).double())
    return bool(distance <= TOLERANCE * torch.linalg.vector_norm(expected.double()))

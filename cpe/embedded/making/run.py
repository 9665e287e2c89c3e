"""What the training scripts of the embedded model share: processes, schedule, checkpoints.

Every script runs alone or under `torchrun --nproc-per-node N`; with several processes each draws its own
batches and the gradients are averaged before every step. One thread a process is fastest at this size.
"""

# Axes: B pictures, C channels, H height, W width.

import math
import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def augment(pictures: Tensor, generator: torch.Generator, *, shift: float, zoom: float, turn: float = 0.0) -> Tensor:
    """Moves, shrinks or enlarges and turns each picture by its own random amount, on white.

    Args:
        pictures: (B, 3, H, W) in -1..1.
        generator: source of randomness.
        shift: largest move, as a share of half the width.
        zoom: largest change of size, as a share.
        turn: largest turn in radians.
    """
    count = pictures.shape[0]
    draw = torch.rand(4, count, generator=generator) * 2 - 1  # (4, B)
    scale = 1 + zoom * draw[0]
    angle = turn * draw[1]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() * scale
    theta[:, 0, 1] = -angle.sin() * scale
    theta[:, 1, 0] = angle.sin() * scale
    theta[:, 0, 2] = shift * draw[2]
    theta[:, 1, 2] = shift * draw[3]
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures - 1, grid, align_corners=False, padding_mode="zeros") + 1


@dataclass
class Run:
    """One training run: its processes, its clock, and a checkpoint that survives a stop.

    Attributes:
        name: names the checkpoint file.
        folder: where checkpoints go.
        steps: optimiser steps in all.
        peak_rate: highest learning rate of the one-cycle schedule.
        seed: seeds weights and batches; each process draws its own batches.
        state: further tensors to keep in the checkpoint (an average of the weights, say).
    """

    name: str
    folder: Path
    steps: int
    peak_rate: float
    seed: int = 0
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    save_every: int = 100  # steps; all processes save the same step
    state: dict[str, Tensor] = field(default_factory=dict)

    def fit(
        self,
        modules: dict[str, nn.Module],
        loss_of: Callable[[torch.Generator], Tensor],
        after_step: Callable[[int], None] | None = None,
    ) -> float:
        """Trains the modules in place and returns the seconds spent, earlier stretches included."""
        rank, world = start_processes()
        parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.peak_rate, weight_decay=self.weight_decay, betas=(0.9, 0.99))
        generator = torch.Generator().manual_seed(self.seed * 1000 + rank)
        first, spent_s = self._resume(modules, optimizer, generator, rank)
        started = time.monotonic()
        for step in range(first, self.steps):
            for group in optimizer.param_groups:
                group["lr"] = self.peak_rate * self._schedule(step)
            loss = loss_of(generator)
            optimizer.zero_grad()
            loss.backward()
            average_gradients(parameters, world)
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            optimizer.step()
            if after_step is not None:
                after_step(step)
            now = time.monotonic()
            if rank == 0 and (step % 50 == 0 or step == self.steps - 1):
                print(
                    f"{self.name} step {step}/{self.steps} loss {loss.item():.4f} {spent_s + now - started:.0f} s",
                    flush=True,
                )
            if (step + 1) % self.save_every == 0 or step == self.steps - 1:
                self._save(modules, optimizer, generator, rank, step + 1, spent_s + now - started)
        return spent_s + time.monotonic() - started

    def _schedule(self, step: int) -> float:
        """Share of the peak rate: linear warm-up, then a cosine to zero."""
        warmup = max(1, int(self.steps * self.warmup_share))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    def _path(self, rank: int) -> Path:
        return self.folder / "checkpoints" / f"{self.name}.{rank}.pt"

    def _save(self, modules, optimizer, generator, rank, step, spent_s) -> None:
        content = {
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "state": self.state,
            "step": step,
            "steps": self.steps,
            "spent_s": spent_s,
        }
        path = self._path(rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def _resume(self, modules, optimizer, generator, rank) -> tuple[int, float]:
        path = self._path(rank)
        if not path.exists():
            return 0, 0.0
        content = torch.load(path, weights_only=True)
        if content["steps"] != self.steps:
            raise ValueError(
                f"{path} was written by a run of {content['steps']} steps, this one has {self.steps}; "
                "delete it to start anew"
            )
        for name, module in modules.items():
            module.load_state_dict(content["modules"][name])
        optimizer.load_state_dict(content["optimizer"])
        generator.set_state(content["generator"])
        for name, tensor in content["state"].items():
            self.state[name].copy_(tensor)
        return content["step"], content["spent_s"]


def start_processes() -> tuple[int, int]:
    """Returns (rank, number of processes), joining the others of a torchrun if there are any."""
    torch.set_num_threads(1)
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def average_gradients(parameters: Iterable[nn.Parameter], world: int) -> None:
    """Replaces each gradient by its mean over the processes."""
    if world == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def seed_everything(seed: int) -> None:
    """Seeds the weights' start; only training scripts may do this, never the library."""
    torch.manual_seed(seed)
    random.seed(seed)

"""A training step that searches adversarial copies, with its gradient written by hand."""

# Axes: N concepts, K templates, C copies, T tokens, D text width, S adapter rank, L projections.

import torch
from torch import Tensor

from cpe.methods.pinpoint.batch import Batch
from cpe.methods.pinpoint.config import TrainingConfig
from cpe.methods.pinpoint.gates import side_by_side
from cpe.methods.pinpoint.objective import attend, attend_gradient, up_products, weigh
from cpe.models.padding import present
from cpe.models.projections import BaseProjections


class AttackPhase:
    """Steps that, with the gate frozen, move copies so that the target comes back.

    Args:
        batch: N concepts, whose gates stay as they are.
        copies: what moves, (N, C, T, D).
        base: the model's projections.
        config: the preset.
    """

    def __init__(self, batch: Batch, copies: Tensor, base: BaseProjections, config: TrainingConfig) -> None:
        self.batch, self.base, self.config = batch, base, config
        self.moving = copies
        self.products = up_products(batch.gates.up, base)
        side = side_by_side(batch.gates, batch.flat)
        self.stack = torch.cat([side, self.products.pull.transpose(1, 2)], dim=2)  # (N, D, K + L·S)
        self.target = torch.bmm(batch.target.flatten(1, 2), side).unflatten(1, batch.target.shape[1:3])
        count, copied = copies.shape[:2]
        self.concepts = torch.arange(count, device=copies.device)[:, None]
        self.pairing = torch.arange(copied, device=copies.device) % config.targets_per_step
        self.template = torch.zeros(count, config.targets_per_step, dtype=torch.int64, device=copies.device)
        self.target_present = present(batch.target) if batch.padded else None  # (N, K, T)
        self.gradient = torch.zeros_like(copies)
        copies.grad = self.gradient

    def draw(self) -> None:
        """Draws a step's templates."""
        templates = self.target.shape[1]
        for place, own in enumerate(self.batch.draws):
            self.template[place] = torch.randint(templates, (self.template.shape[1],), generator=own.choices)

    def compute(self) -> Tensor:
        """Leaves the gradient of the copies and returns each concept's loss and zeros, (3, N)."""
        copies, mask = self.moving, None
        if self.target_present is not None:  # copies move where the target has words
            mask = self.target_present[self.concepts, self.template[:, self.pairing]]  # (N, C, T)
            copies = copies * mask[..., None]
        count, copied, tokens, width = copies.shape
        rows, columns = copies.view(count, copied * tokens, width), self.target.shape[-1]
        product = torch.bmm(rows, self.stack)  # X C | a hᵀ
        mixed, pulled = product[..., :columns], product[..., columns:]
        mixed = mixed.unflatten(1, (copied, tokens)) + self.target[self.concepts, self.template[:, self.pairing]]
        seen = attend(mixed.flatten(0, 1), self.config.gate, None if mask is None else mask.flatten(0, 1))
        codes = seen.codes.view(count, copied * tokens, -1)
        own = weigh(codes, self.products.metric)
        moved = torch.mm(rows.flatten(0, 1), self.base.gram).view_as(rows)  # a M, the only wide product
        errors = torch.linalg.vecdot(rows, moved).sum(dim=1)
        errors += torch.linalg.vecdot(codes, own + 2 * pulled).sum(dim=1)
        own += pulled
        own *= 2 / copied
        back = attend_gradient(seen, own.view_as(seen.codes), self.config.gate).view(count, copied * tokens, -1)
        left = torch.cat([back, codes * (2 / copied)], dim=2)  # (N, C·T, K + L·S)
        torch.baddbmm(moved, left, self.stack.transpose(1, 2), beta=2 / copied, out=self.gradient.view_as(rows))
        if mask is not None:
            self.gradient *= mask[..., None]
        loss = errors / copied
        return torch.stack([loss, torch.zeros_like(loss), torch.zeros_like(loss)])

"""A training step that erases, with its gradient written by hand.

A step first draws its templates, anchors and noise, then computes from tensors that stay at their places, without
looking at their values: so the second part can be recorded and replayed.
"""

# Axes: N concepts, K templates, E targets a step, C copies, A anchors a step, T tokens, D text width, S adapter rank,
# L projections.

import torch
from torch import Tensor

from cpe.methods.pinpoint.batch import Batch
from cpe.methods.pinpoint.config import TrainingConfig
from cpe.methods.pinpoint.gates import side_by_side
from cpe.methods.pinpoint.objective import (
    attend,
    attend_gradient,
    fixed_error,
    up_gradient,
    up_products,
    weigh,
    weigh_gradient,
)
from cpe.methods.pinpoint.phases.mixing import mix_anchors
from cpe.models.padding import present
from cpe.models.projections import BaseProjections


class ErasePhase:
    """Steps that pull the target and its copies towards the surrogate while anchors hold still.

    Args:
        batch: N concepts, whose `flat` moves.
        copies: the last search's adversarial copies, (N, C, T, D); C may be 0.
        earlier: copies of searches before that, for `config.replay`, (N, ·, T, D).
        base: the model's projections.
        config: the preset.
    """

    def __init__(
        self, batch: Batch, copies: Tensor, earlier: Tensor, base: BaseProjections, config: TrainingConfig
    ) -> None:
        self.batch, self.base, self.config = batch, base, config
        self.moving = flat = batch.flat
        self.side = side_by_side(batch.gates, flat)
        count, _, tokens, width = batch.target.shape
        self.erased, self.held = config.targets_per_step, config.anchors_per_step
        self.replayed = min(config.replay, earlier.shape[1])
        self.every_copy = torch.cat([copies, earlier], dim=1) if self.replayed else copies
        self.copied = copies.shape[1] + self.replayed
        device = flat.device
        self.offset = (1 + config.strength) * (batch.surrogate - batch.target)
        self.concepts = torch.arange(count, device=device)[:, None]
        self.pairing = torch.arange(self.copied, device=device) % self.erased  # which target a copy goes with
        self.template = torch.zeros(count, self.erased, dtype=torch.int64, device=device)
        self.copy = torch.arange(self.copied, device=device).repeat(count, 1)  # the step's, among every copy
        self.rows = torch.zeros(count, 2, self.held, dtype=torch.int64, device=batch.table.device)
        self.share = flat.new_zeros(count, self.held, 1, 1)
        self.on_way = torch.zeros(count, config.way_anchors, dtype=torch.int64, device=device)  # towards which target
        # On a CPU, noise is drawn only where the gate can see it: in the span of its K columns (docs/method.md, 5).
        columns = self.side.shape[2]
        self.spanned = device.type == "cpu" and config.anchor_noise > 0 and columns <= width
        self.noise = flat.new_empty(count, self.held, tokens, columns if self.spanned else width)
        # One block of texts: offsets | copies | targets | empty prompt | anchors.
        sizes = [self.erased, self.copied, self.erased, 1, self.held]
        self.block = flat.new_zeros(count, sum(sizes), tokens, width)
        self.wanted, self.copies, self.shown, empty, self.anchors = self.block.split(sizes, dim=1)
        self.copies[:] = self.every_copy[:, : self.copied]
        empty[:] = batch.empty
        self.target_fixed = fixed_error(self.offset, base)  # (N, K)
        shares = [1 / max(1, self.copied)] * self.copied + [1 / self.erased] * self.erased
        shares += [config.anchor_weight / (1 + self.held)] * (1 + self.held)
        each_prompt = torch.tensor(shares, dtype=torch.float64).to(flat)
        self.shares = each_prompt[None, :, None, None]  # of the prompts in the loss
        pulled = (self.offset @ base.gram).flatten(2) @ self.every_copy.flatten(2).transpose(1, 2)
        own = fixed_error(self.every_copy, base)[:, None]  # (N, 1, C)
        self.present: Tensor | None = None  # which tokens are no padding, as the block's, offsets left out
        if batch.padded:
            self.target_present = present(batch.target)  # (N, K, T)
            at_token = torch.linalg.vecdot(self.every_copy @ base.gram, self.every_copy)  # (N, C, T)
            own = self.target_present.to(flat) @ at_token.transpose(1, 2)
            self.present = torch.ones(self.block[:, self.erased :, :, 0].shape, dtype=torch.bool, device=device)
            self.present[:, self.copied + self.erased] = present(batch.empty)
        self.copy_fixed = self.target_fixed[:, :, None] - 2 * pulled + own
        self.gradient = torch.zeros_like(flat)
        flat.grad = self.gradient

    def draw(self) -> None:
        """Draws a step's templates, anchors and noise, each concept from its own generators, and puts them in place."""
        templates = self.batch.target.shape[1]
        for place, (own, rows) in enumerate(zip(self.batch.draws, self.batch.anchors, strict=True)):
            self.template[place] = torch.randint(templates, (self.erased,), generator=own.choices)
            self.rows[place] = rows[torch.randint(len(rows), (2, self.held), generator=own.choices)]
            share = torch.rand(self.held, generator=own.choices)  # the same draws in every precision
            self.share[place] = share[:, None, None]
            if count := self.on_way.shape[1]:
                self.on_way[place] = torch.randint(templates, (count,), generator=own.choices)
            if self.replayed:
                first = self.copied - self.replayed
                order = torch.randperm(self.every_copy.shape[1] - first, generator=own.choices)
                self.copy[place, first:] = first + order[: self.replayed]
        self.fill()

    def compute(self) -> Tensor:
        """Leaves the gradient of the gates and returns the erasing, adversarial and anchoring losses, (3, N)."""
        config, erased, copied = self.config, self.erased, self.copied
        count, _, tokens, _ = self.block.shape
        products = up_products(self.batch.gates.up, self.base)
        texts, offsets = self.block[:, erased:].flatten(1, 2), self.block[:, : erased + copied].flatten(1, 2)
        mixed = torch.bmm(texts, self.side).unflatten(1, (-1, tokens))  # copies | targets | empty | anchors
        if self.spanned:
            basis, triangle = torch.linalg.qr(self.side)  # (N, D, K), (N, K, K)
            mixed[:, -self.held :] += torch.bmm(self.noise.flatten(1, 2), triangle).view_as(self.noise)
        mixed[:, :copied] += mixed[:, copied : copied + erased][:, self.pairing]  # (t + a) C = t C + a C
        seen = attend(mixed.flatten(0, 1), config.gate, None if self.present is None else self.present.flatten(0, 1))
        codes = seen.codes.unflatten(0, (count, -1))  # (N, copies | targets | empty | anchors, T, L·S)
        own = weigh(codes.flatten(1, 2), products.metric).view_as(codes)
        errors = torch.linalg.vecdot(codes, own).sum(dim=2)  # (N, prompts)
        pulled = torch.bmm(offsets, products.pull.transpose(1, 2)).unflatten(1, (-1, tokens))  # offsets | copies
        pulled = torch.cat([pulled[:, :erased][:, self.pairing] - pulled[:, erased:], pulled[:, :erased]], dim=1)
        moving = codes[:, : copied + erased]
        errors[:, : copied + erased] -= 2 * torch.linalg.vecdot(moving, pulled).sum(dim=2)

        weighted = codes * self.shares
        metric = weigh_gradient(codes.flatten(1, 2), weighted.flatten(1, 2), products.metric)
        pull = -2 * weighted[:, : copied + erased]
        pull = torch.cat([with_copies(pull, copied), -pull[:, :copied]], dim=1).flatten(1, 2)  # rows as the offsets'
        own[:, : copied + erased] -= pulled
        own *= 2 * self.shares
        back = attend_gradient(seen, own.flatten(0, 1), config.gate).unflatten(0, (count, -1))
        back[:, copied : copied + erased] = with_copies(back[:, : copied + erased], copied)
        side = torch.bmm(back.flatten(1, 2).transpose(1, 2), texts).transpose(1, 2)  # quicker than Xᵀ times back
        if self.spanned:
            noisy = back[:, -self.held :].flatten(1, 2)
            side = side + torch.bmm(basis, torch.bmm(self.noise.flatten(1, 2).transpose(1, 2), noisy))
        up = up_gradient(self.batch.gates.up, self.base, torch.bmm(pull.transpose(1, 2), offsets), metric)
        self._leave(side, up)

        erase = errors[:, copied : copied + erased].mean(dim=1)
        erase += self.target_fixed[self.concepts, self.template].mean(dim=1)
        fixed = self.copy_fixed[self.concepts, self.template[:, self.pairing], self.copy]
        adversarial = (errors[:, :copied] + fixed).sum(dim=1) / max(1, copied)
        return torch.stack([erase, adversarial, errors[:, copied + erased :].mean(dim=1)])

    def fill(self) -> None:
        """Puts the drawn templates, copies and anchors into the block of texts, and draws their noise."""
        self.shown[:] = self.batch.target[self.concepts, self.template]
        self.wanted[:] = self.offset[self.concepts, self.template]
        if self.replayed:
            self.copies[:] = self.every_copy[self.concepts, self.copy]
        over_prompt = self.config.anchor_noise_over == "prompt"
        spread = mix_anchors(self.batch.table, self.rows, self.share, out=self.anchors, over_prompt=over_prompt)
        if count := self.on_way.shape[1]:
            starts = self.batch.table[self.rows[:, 0, :count]].to(self.anchors)
            ends = self.batch.target[self.concepts, self.on_way]
            torch.lerp(starts, ends, self.config.way_share, out=self.anchors[:, :count])
        if self.present is not None:
            spread = self._leave_padding_out(self.present) * spread
        if self.config.anchor_noise:
            for noise, own in zip(self.noise, self.batch.draws, strict=True):
                noise.normal_(generator=own.noise)
            self.noise *= self.config.anchor_noise * spread
            if not self.spanned:
                self.anchors += self.noise

    def _leave_padding_out(self, mask: Tensor) -> Tensor:
        """Marks the step's padding, takes copies off it, and returns which anchors' tokens are none, (N, A, T, 1)."""
        of_target = self.target_present[self.concepts, self.template]  # (N, E, T)
        anchors = present(self.anchors)
        mask[:, : self.copied] = of_target[:, self.pairing]
        mask[:, self.copied : self.copied + self.erased] = of_target
        mask[:, -self.held :] = anchors
        copies = self.every_copy[self.concepts, self.copy]
        self.copies[:] = copies * mask[:, : self.copied, :, None]
        return anchors[..., None]

    def _leave(self, side: Tensor, up: Tensor) -> None:
        """Leaves the gradient, of each concept clipped to `config.gradient_clip` if that is set."""
        gradient = torch.cat([side.flatten(1), up.flatten(1)], dim=1, out=self.gradient)
        if self.config.gradient_clip is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient *= (self.config.gradient_clip / norm).clamp(max=1)


def with_copies(rows: Tensor, copied: int) -> Tensor:
    """Returns the rows of the targets, each with those of its copies added; copy i goes with target i mod E.

    They are summed in one order on every device; CUDA's `index_add` sums in another each time.

    Args:
        rows: of the copies, then of the targets, (N, C + E, T, ·).
        copied: C.
    """
    erased = rows.shape[1] - copied
    missing = -copied % erased  # of the last round of copies
    rounds = [rows[:, copied:], rows[:, :copied], rows.new_zeros(len(rows), missing, *rows.shape[2:])]
    return torch.cat(rounds, dim=1).unflatten(1, (-1, erased)).sum(dim=1)

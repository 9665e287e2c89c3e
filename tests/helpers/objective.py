"""Cases of the objective."""

import torch

from benchmarks import plain
from cpe.methods.pinpoint.batch import Batch, Draws
from cpe.methods.pinpoint.config import GateConfig, TrainingConfig
from cpe.methods.pinpoint.phases.erase import ErasePhase
from cpe.models.padding import ended, present
from helpers.small import TOKENS, as_plain, random_gates, random_text, small_base, small_unet

GATES = [
    GateConfig(gate_rank=4),
    GateConfig(gate_rank=3, adapter_rank=2, alpha=0.7),
    GateConfig(gate_rank=5, adapter_rank=4, tied_qk=False),
]
COUNT, TEMPLATES, COPIES = 3, 4, 5
LENGTHS = [5, 8, 12, 3]  # tokens of a template's padded texts


def cut(texts, lengths):
    """Returns texts (..., B, T, D) of which each of B ends after so many tokens."""
    ends = torch.arange(TOKENS) < torch.tensor(lengths)[:, None]  # (B, T)
    return texts * ends[..., None]


def settings(gate: GateConfig, **changes) -> TrainingConfig:
    return TrainingConfig(gate=gate, targets_per_step=2, anchors_per_step=3, anchor_weight=7.0, **changes)


class Case:
    """Random gates in front of random texts, and what the formulas say of them."""

    def __init__(self, config: TrainingConfig, *, copies: int = COPIES, earlier: int = 0, padded: bool = False) -> None:
        self.config, self.base = config, small_base()
        texts = [random_text(COUNT, TEMPLATES, seed=seed) for seed in (0, 1)]
        empty, table = random_text(1, seed=2)[0], random_text(9, seed=3)
        if padded:
            empty, table, texts = (
                cut(empty[None], [1])[0],
                cut(table, [*range(3, 12)]),
                [cut(t, LENGTHS) for t in texts],
            )
            texts[1] = cut(random_text(COUNT, TEMPLATES, seed=1), LENGTHS[::-1])
        gates = random_gates(config.gate, self.base, count=COUNT)
        flat = gates.flat()
        self.batch = Batch(
            gates=gates.viewing(flat),
            flat=flat,
            target=texts[0],
            surrogate=ended(texts[1], texts[0]) if padded else texts[1],
            empty=empty,
            table=table,
            anchors=tuple(torch.arange(n, 9) for n in range(COUNT)),
            draws=tuple(
                Draws(torch.Generator().manual_seed(n), torch.Generator().manual_seed(-n)) for n in range(COUNT)
            ),
            padded=padded,
        )
        self.copies = 0.1 * random_text(COUNT, copies, seed=4)
        self.earlier = 0.1 * random_text(COUNT, earlier, seed=5)
        state = small_unet().double().state_dict()
        self.weights = plain.site_weights(state, self.base.names, self.base.tokens)
        self.projections = [state[f"{name}.weight"] for name in self.base.names]

    def error(self, gate, text, offset, of=None):
        """Returns the error of each text (B,); of padded ones, that of the text without `of`'s padding."""
        kind = {"alpha": self.config.gate.alpha, "tied": self.config.gate.tied_qk}
        if not self.batch.padded:
            return plain.error(text, offset, gate, self.projections, self.weights, **kind)
        errors = []
        for own, moved, read in zip(text, offset, present(text if of is None else of), strict=True):
            error = plain.error(own[None, read], moved[None, read], gate, self.projections, self.weights, **kind)
            errors.append(error * read.sum() / TOKENS)
        return torch.cat(errors) if errors else text.new_zeros(0)

    def erase(self) -> ErasePhase:
        return ErasePhase(self.batch, self.copies, self.earlier, self.base, self.config)

    def plain_erase(self, phase: ErasePhase, index: int):
        """Returns the three losses of one concept and the gradient of their weighted sum, laid out as `flat`."""
        config, gate = self.config, as_plain(self.batch.gates.map(torch.clone), index)
        moved = [gate["query"], gate["score"], *gate["downs"], *([] if config.gate.tied_qk else [gate["key"]])]
        template = phase.template[index]
        target, surrogate = self.batch.target[index, template], self.batch.surrogate[index, template]
        offset = (1 + config.strength) * (surrogate - target)
        copies = torch.cat([self.copies, self.earlier], dim=1)[index, phase.copy[index]]
        pairing = [i % len(target) for i in range(len(copies))]
        basis = torch.linalg.qr(torch.cat(moved, dim=1)).Q
        noise = phase.noise[index] @ basis.T if phase.spanned else 0
        quiet = torch.cat([phase.anchors[index] + noise, self.batch.empty[None]])
        with plain.trainable([*moved, *gate["ups"]]):
            erase = self.error(gate, target, offset).mean()
            fooled = self.error(gate, target[pairing] + copies, offset[pairing] - copies, of=target[pairing])
            adversarial = fooled.mean() if len(copies) else erase * 0
            clean = torch.cat([phase.anchors[index], self.batch.empty[None]])
            anchor = self.error(gate, quiet, torch.zeros_like(quiet), of=clean).mean()
            total = erase + adversarial + config.anchor_weight * anchor
            gradients = torch.autograd.grad(total, [*moved, *gate["ups"]])
        side, up = torch.cat(gradients[: len(moved)], dim=1), torch.cat(gradients[len(moved) :], dim=1)
        losses = torch.stack([erase, adversarial, anchor]).detach()
        return losses, torch.cat([side.flatten(), up.flatten()])

"""Cases of the objective."""

import torch

from benchmarks import plain
from cpe.methods.pinpoint.batch import Batch, Draws
from cpe.methods.pinpoint.config import GateConfig, TrainingConfig
from cpe.methods.pinpoint.steps import ErasePhase
from helpers.small import as_plain, random_gates, random_text, small_base, small_unet

GATES = [
    GateConfig(gate_rank=4),
    GateConfig(gate_rank=3, adapter_rank=2, alpha=0.7),
    GateConfig(gate_rank=5, adapter_rank=4, tied_qk=False),
]
COUNT, TEMPLATES, COPIES = 3, 4, 5


def settings(gate: GateConfig, **changes) -> TrainingConfig:
    return TrainingConfig(gate=gate, targets_per_step=2, anchors_per_step=3, anchor_weight=7.0, **changes)


class Case:
    """Random gates in front of random texts, and what the formulas say of them."""

    def __init__(self, config: TrainingConfig, *, copies: int = COPIES, earlier: int = 0) -> None:
        self.config, self.base = config, small_base()
        gates = random_gates(config.gate, self.base, count=COUNT)
        flat = gates.flat()
        self.batch = Batch(
            gates=gates.viewing(flat),
            flat=flat,
            target=random_text(COUNT, TEMPLATES),
            surrogate=random_text(COUNT, TEMPLATES, seed=1),
            empty=random_text(1, seed=2)[0],
            table=random_text(9, seed=3),
            anchors=tuple(torch.arange(n, 9) for n in range(COUNT)),
            draws=tuple(
                Draws(torch.Generator().manual_seed(n), torch.Generator().manual_seed(-n)) for n in range(COUNT)
            ),
        )
        self.copies = 0.1 * random_text(COUNT, copies, seed=4)
        self.earlier = 0.1 * random_text(COUNT, earlier, seed=5)
        state = small_unet().double().state_dict()
        self.weights = plain.site_weights(state, self.base.names, self.base.tokens)
        self.projections = [state[f"{name}.weight"] for name in self.base.names]

    def error(self, gate, text, offset):
        gate_config = self.config.gate
        return plain.error(
            text, offset, gate, self.projections, self.weights, alpha=gate_config.alpha, tied=gate_config.tied_qk
        )

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
            fooled = self.error(gate, target[pairing] + copies, offset[pairing] - copies)
            adversarial = fooled.mean() if len(copies) else erase * 0
            anchor = self.error(gate, quiet, torch.zeros_like(quiet)).mean()
            total = erase + adversarial + config.anchor_weight * anchor
            gradients = torch.autograd.grad(total, [*moved, *gate["ups"]])
        side, up = torch.cat(gradients[: len(moved)], dim=1), torch.cat(gradients[len(moved) :], dim=1)
        losses = torch.stack([erase, adversarial, anchor]).detach()
        return losses, torch.cat([side.flatten(), up.flatten()])

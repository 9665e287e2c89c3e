"""Our training steps and the plain ones, on the same texts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain
from cpe.methods.pinpoint.batch import ConceptTexts
from cpe.methods.pinpoint.config import TrainingConfig
from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.phases.erase import ErasePhase
from cpe.methods.pinpoint.phases.recording import Stepper
from cpe.methods.pinpoint.phases.search import AttackPhase
from cpe.methods.pinpoint.training import Training
from cpe.models.projections import BaseProjections

TEMPLATES, ANCHORS = 100, 2000  # prompts of a target, embeddings that anchors are drawn from
RESTLESS = 0.02  # standard deviation of the up matrices: a gate in the middle of its training, not one at its start


def concepts_of(
    count: int, base: BaseProjections, *, templates: int = TEMPLATES, anchors: int = ANCHORS
) -> tuple[list[ConceptTexts], Tensor]:
    """Returns concepts with texts of a text encoder's size, and the empty prompt; norms are those of CLIP's states."""
    tokens, width = base.tokens, base.text_width
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(anchors, tokens, width, generator=generator).half()
    texts = torch.randn(count, 2, templates, tokens, width, generator=generator)
    concepts = [ConceptTexts(str(i), texts[i, 0], texts[i, 1], table, seed=i) for i in range(count)]
    return concepts, torch.randn(tokens, width, generator=generator).to(base.gram)


class Steps:
    """Our step and the plain one of each kind, on the same texts: of the first stage, of later ones, of a search.

    Args:
        base: the model's projections.
        config: the preset.
        templates: prompts of the target.
        anchors: embeddings that anchors are drawn from.
    """

    def __init__(
        self, base: BaseProjections, config: TrainingConfig, *, templates: int = TEMPLATES, anchors: int = ANCHORS
    ) -> None:
        self.base, self.config = base, config
        concepts, empty = concepts_of(1, base, templates=templates, anchors=anchors)
        run = Training(concepts, base, empty, config)
        none = run.copies  # as the first stage has them
        run.renew_copies()
        up = run.batch.gates.up
        up += RESTLESS * torch.randn(up.shape, generator=torch.Generator().manual_seed(1)).to(up)
        self.erase, self.attack = run.erase_phase(), run.attack_phase()
        self.first = ErasePhase(run.batch.some(run.active), none, none, base, config)
        self.steppers = {phase: Stepper(phase, {}) for phase in (self.first, self.erase, self.attack)}
        self.basis = torch.linalg.qr(self.erase.side[0].clone()).Q
        self.plain_gate = plain_gate(self.erase.batch.gates)
        self.plain_parameters = [self.plain_gate[n] for n in ("query", "score")]
        self.plain_parameters += [*self.plain_gate["downs"], *self.plain_gate["ups"]]
        self.plain_copies = self.attack.moving[0].clone()
        self.plain_optimizers = [torch.optim.Adam(self.plain_parameters), torch.optim.Adam([self.plain_copies])]
        for optimizer in self.plain_optimizers:
            optimizer.param_groups[0]["lr"] = 0.0  # both stay where they are, so that they can be compared

    def ours(self, phase: ErasePhase | AttackPhase) -> Tensor:
        """Takes one of our steps, which moves nothing; returns its losses."""
        return self.steppers[phase].step(0.0)

    def plain_erase(self, step: ErasePhase, sites: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Takes the plain erasing step on the texts of our last one; returns its loss and gradients.

        Args:
            step: ours.
            sites: places of the projections that it goes through; None: all.
        """
        config = self.config
        template = step.template[0]
        target, surrogate = step.batch.target[0, template], step.batch.surrogate[0, template]
        attacked = target[step.pairing] + step.copies[0]
        quiet = torch.cat([step.batch.empty[None], self.noisy_anchors(step)])
        total: Tensor | float = 0.0
        with plain.trainable(self.plain_parameters):
            for site in range(len(self.base.names)) if sites is None else sites:
                aim = self._aim(target, surrogate, site)
                wrong = [_mean(self._output(target, site) - aim)]
                if len(attacked):
                    wrong.append(_mean(self._output(attacked, site) - aim[step.pairing]))
                moved = self._output(quiet, site) - quiet @ self.base.matrices[site].T
                total = total + self._weight(site) * (sum(wrong) + config.anchor_weight * _mean(moved))
            return self._finish(total, self.plain_parameters, self.plain_optimizers[0])

    def noisy_anchors(self, step: ErasePhase) -> Tensor:
        """Returns the anchors of our last step with the noise that it drew, (A, T, D)."""
        if not step.spanned:
            return step.anchors[0]
        return step.anchors[0] + step.noise[0] @ self.basis.T

    def plain_attack(self) -> tuple[Tensor, list[Tensor]]:
        """Takes the plain adversary's step on the texts of our last one."""
        step = self.attack
        target = self.erase.batch.target[0, step.template[0]][step.pairing]
        total: Tensor | float = 0.0
        with plain.trainable([self.plain_copies]):
            for site in range(len(self.base.names)):
                back = self._output(target + self.plain_copies, site) - target @ self.base.matrices[site].T
                total = total + self._weight(site) * _mean(back)
            return self._finish(total, [self.plain_copies], self.plain_optimizers[1])

    def _output(self, text: Tensor, site: int) -> Tensor:
        gate = self.config.gate
        delta = plain.residual(text, self.plain_gate, site, alpha=gate.alpha, tied=gate.tied_qk)
        return text @ self.base.matrices[site].T + delta

    def _aim(self, target: Tensor, surrogate: Tensor, site: int) -> Tensor:
        wanted, original = surrogate @ self.base.matrices[site].T, target @ self.base.matrices[site].T
        return wanted + self.config.strength * (wanted - original)

    def _weight(self, site: int) -> Tensor:
        """σ's part of c_l alone: the mean over tokens, width and projections is taken plainly."""
        return self.base.weights[site] * self.base.tokens * self.base.widths[site]

    @staticmethod
    def _finish(total: Any, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> tuple[Tensor, list[Tensor]]:
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return total.detach(), [p.grad for p in parameters if p.grad is not None]

    def disagreement(self) -> dict[str, float]:
        """Returns how far our losses and gradients are from the plain ones, relative to the plain ones' norm."""
        found = {}
        for name, phase in (("first", self.first), ("erase", self.erase)):
            losses = self.ours(phase)
            loss, gradients = self.plain_erase(phase)
            ours = losses[0] + losses[1] + self.config.anchor_weight * losses[2]
            found[f"{name} loss"] = ((ours - loss).abs() / loss.abs()).item()
            gate = plain_gate(phase.batch.gates.viewing(phase.gradient))
            pieces = [gate["query"], gate["score"], *gate["downs"], *gate["ups"]]
            found[f"{name} gradient"] = max(_distance(a, b) for a, b in zip(pieces, gradients, strict=True))
        losses = self.ours(self.attack)
        loss, gradients = self.plain_attack()
        found["adversary loss"] = ((losses[0] - loss).abs() / loss.abs()).item()
        found["adversary gradient"] = _distance(self.attack.gradient[0], gradients[0])
        return found


def plain_gate(gates: Gates) -> dict[str, Any]:
    """Returns the first of some gates as `plain` takes it, copied."""
    rank = gates.config.adapter_rank
    return {
        "query": gates.query[0].clone(),
        "key": gates.key[0].clone(),
        "score": gates.score[0].clone(),
        "downs": [t.clone() for t in gates.down[0].split(rank, dim=1)],
        "ups": [t.clone() for t in gates.up[0].split(list(gates.widths), dim=1)],
    }


def _mean(error: Tensor) -> Tensor:
    return error.square().mean()


def _distance(ours: Tensor, expected: Tensor) -> float:
    return ((ours - expected).norm() / expected.norm().clamp(min=1e-30)).item()

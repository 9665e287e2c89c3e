"""The fast objective and its gradients equal the formulas computed plainly in float64."""

import pytest
import torch
from small import as_plain, random_gates, random_text, small_base, small_unet

from benchmarks import plain
from cpe.methods.pinpoint.batch import Batch, Draws
from cpe.methods.pinpoint.config import GateConfig, TrainingConfig
from cpe.methods.pinpoint.steps import AttackPhase, ErasePhase

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


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("copies", [0, COPIES])
@pytest.mark.parametrize("gate", GATES)
def test_erasing_losses_and_gradient_equal_the_plain_formulas(gate, copies, noise):
    case = Case(settings(gate, anchor_noise=noise), copies=copies)
    phase = case.erase()
    assert phase.spanned == (noise > 0 and gate is not GATES[2]), "the last gate has more columns than the text is wide"
    phase.draw()
    losses = phase.compute()
    for index in range(COUNT):
        expected, gradient = case.plain_erase(phase, index)
        close(losses[:, index], expected)
        close(phase.gradient[index], gradient)


def test_replayed_copies_are_part_of_the_loss():
    case = Case(settings(GATES[0], replay=3), earlier=6)
    phase = case.erase()
    phase.draw()
    losses = phase.compute()
    assert phase.copy.shape == (COUNT, COPIES + 3)
    assert phase.copy[:, COPIES:].min() >= COPIES, "earlier copies come after the last search's"
    assert all(len(set(row.tolist())) == COPIES + 3 for row in phase.copy)
    for index in range(COUNT):
        expected, gradient = case.plain_erase(phase, index)
        close(losses[:, index], expected)
        close(phase.gradient[index], gradient)


def test_a_clipped_gradient_keeps_its_direction_for_each_gate_alone():
    free, norms = Case(settings(GATES[0])).erase(), None
    free.draw()
    free.compute()
    norms = free.gradient.norm(dim=1)
    limit = norms.sort().values[1].item()  # between the smallest and the largest
    clipped = Case(settings(GATES[0], gradient_clip=limit)).erase()
    clipped.draw()
    clipped.compute()
    for index in range(COUNT):
        expected = free.gradient[index] * min(1.0, limit / norms[index].item())
        close(clipped.gradient[index], expected)
    assert clipped.gradient.norm(dim=1).max() <= limit * (1 + 1e-9) < norms.max()


@pytest.mark.parametrize("gate", GATES)
def test_adversary_loss_and_gradient_equal_the_plain_formulas(gate):
    case = Case(settings(gate))
    phase = AttackPhase(case.batch, case.copies, case.base, case.config)
    phase.draw()
    losses = phase.compute()
    for index in range(COUNT):
        plain_gate = as_plain(case.batch.gates.map(torch.clone), index)
        copies = case.copies[index].clone().requires_grad_()
        target = case.batch.target[index, phase.template[index]]
        pairing = [i % len(target) for i in range(COPIES)]
        loss = case.error(plain_gate, target[pairing] + copies, -copies).mean()
        (gradient,) = torch.autograd.grad(loss, [copies])
        close(losses[0, index], loss.detach())
        close(phase.gradient[index], gradient)


def test_untied_keys_change_the_loss():
    losses = []
    for tied in (True, False):
        phase = Case(settings(GateConfig(gate_rank=4, tied_qk=tied))).erase()
        phase.draw()
        losses.append(phase.compute())
    assert not torch.allclose(*losses)


def test_spanned_noise_gives_the_losses_of_noise_drawn_in_full():
    """Over many draws the anchoring loss has the same mean either way, and the gradient too."""
    means, gradients = [], []
    for spanned in (True, False):
        phase = Case(settings(GATES[0], anchor_noise=0.5)).erase()
        if not spanned:
            phase.spanned, phase.noise = False, torch.empty_like(phase.anchors)
        phase.draw()
        collected = []
        for _ in range(1500):
            phase.fill()
            collected.append((phase.compute()[2], phase.gradient.clone()))
        means.append(torch.stack([c[0] for c in collected]))
        gradients.append(torch.stack([c[1] for c in collected]))
    error = (means[0].std(dim=0).square() / 1500 + means[1].std(dim=0).square() / 1500).sqrt()
    assert ((means[0].mean(dim=0) - means[1].mean(dim=0)).abs() < 4.5 * error).all()
    torch.testing.assert_close(means[0].std(dim=0), means[1].std(dim=0), rtol=0.15, atol=0)
    difference = gradients[0].mean(dim=0) - gradients[1].mean(dim=0)
    spread = (gradients[0].var(dim=0) / 1500 + gradients[1].var(dim=0) / 1500).sqrt()
    assert (difference / spread.clamp(min=1e-12)).square().mean() < 1.3, "the expected gradient is the same"
    assert gradients[0].var(dim=0).sum() < gradients[1].var(dim=0).sum(), "and its variance is smaller"

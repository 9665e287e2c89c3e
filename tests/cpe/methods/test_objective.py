"""The fast objective and its gradients equal the formulas computed plainly in float64."""

import pytest
import torch

from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.phases.search import AttackPhase
from helpers.objective import COPIES, COUNT, GATES, Case, settings
from helpers.small import as_plain


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


@pytest.mark.parametrize("over", ["prompt", "token"])
@pytest.mark.parametrize("gate", GATES)
def test_padding_takes_no_part_in_erasing(gate, over):
    """Losses and gradient are those of the texts without their padding, whatever copies and noise there would be."""
    case = Case(settings(gate, anchor_noise=0.05, anchor_noise_over=over, replay=2), earlier=4, padded=True)
    phase = case.erase()
    phase.draw()
    losses = phase.compute()
    for index in range(COUNT):
        expected, gradient = case.plain_erase(phase, index)
        close(losses[:, index], expected)
        close(phase.gradient[index], gradient)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("gate", GATES)
def test_adversary_loss_and_gradient_equal_the_plain_formulas(gate, padded):
    case = Case(settings(gate), padded=padded)
    phase = AttackPhase(case.batch, case.copies, case.base, case.config)
    phase.draw()
    losses = phase.compute()
    for index in range(COUNT):
        plain_gate = as_plain(case.batch.gates.map(torch.clone), index)
        copies = case.copies[index].clone().requires_grad_()
        target = case.batch.target[index, phase.template[index]]
        pairing = [i % len(target) for i in range(COPIES)]
        loss = case.error(plain_gate, target[pairing] + copies, -copies, of=target[pairing]).mean()
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

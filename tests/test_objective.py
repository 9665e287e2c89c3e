"""The fast objective equals the formulas computed plainly in float64, losses and gradients."""

import plain
import pytest
import torch
from small import as_plain, random_gates, random_text, small_base, small_unet

from cpe.config import GateConfig
from cpe.objective import squared_error

CONFIGS = [
    GateConfig(gate_rank=4),
    GateConfig(gate_rank=3, adapter_rank=2, alpha=0.7),
    GateConfig(gate_rank=5, adapter_rank=4, tied_qk=False),
]


def plain_error(gates, text, offset):
    unet = small_unet().double()
    state = unet.state_dict()
    names = [name for name, _ in unet.named_modules() if name.endswith((".to_k", ".to_v"))]
    weights = plain.site_weights(state, names, text.shape[-2])
    projections = [state[f"{name}.weight"] for name in names]
    config = gates.config
    rows = [
        plain.error(
            text[n], offset[n], as_plain(gates, n), projections, weights, alpha=config.alpha, tied=config.tied_qk
        )
        for n in range(len(gates))
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("config", CONFIGS)
def test_loss_and_gradients_equal_the_plain_formulas(config):
    base = small_base()
    text, offset = random_text(3, 5), random_text(3, 5, seed=1)
    results = []
    for compute in (lambda g: squared_error(g, base, text, offset), lambda g: plain_error(g, text, offset)):
        gates = random_gates(config, base, count=3)
        trained = gates.trained()
        for tensor in trained.values():
            tensor.requires_grad_()
        loss = compute(gates)
        gradients = torch.autograd.grad(loss.square().sum(), list(trained.values()))
        results.append((loss.detach(), *gradients))
    for fast, expected in zip(*results, strict=True):
        torch.testing.assert_close(fast, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("config", CONFIGS)
def test_gradient_for_copies_equals_the_plain_formulas(config):
    base = small_base()
    gates, text = random_gates(config, base, count=2), random_text(2, 1)
    results = []
    for compute in (lambda x, d: squared_error(gates, base, x, d), lambda x, d: plain_error(gates, x, d)):
        copies = (random_text(2, 4, seed=2) * 0.1).requires_grad_()
        loss = compute(text + copies, -copies)
        results.append((loss.detach(), *torch.autograd.grad(loss.square().sum(), [copies])))
    for fast, expected in zip(*results, strict=True):
        torch.testing.assert_close(fast, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


def test_untied_keys_change_the_loss():
    base = small_base()
    text, offset = random_text(1, 2), random_text(1, 2, seed=1)
    losses = [
        squared_error(random_gates(GateConfig(gate_rank=4, tied_qk=tied), base), base, text, offset)
        for tied in (True, False)
    ]
    assert not torch.allclose(*losses)

"""Steps can be recorded and replayed: they follow from tensors at their places; a wrong recording is refused."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from cpe.methods.pinpoint.phases.erase import ErasePhase, with_copies
from cpe.methods.pinpoint.phases.recording import Stepper, record
from cpe.methods.pinpoint.phases.search import AttackPhase
from cpe.models.projections import BaseProjections
from helpers.objective import GATES, Case, settings
from helpers.small import TOKENS, small_unet
from helpers.training import CONFIG, concept, trained


def attack(case: Case) -> AttackPhase:
    return AttackPhase(case.batch, case.copies, case.base, case.config)


def replaying(case: Case) -> ErasePhase:
    return Case(case.config.model_copy(update={"replay": 3}), earlier=6).erase()


def traced(take):
    """Records a step by its operations."""
    nothing = torch.zeros(())
    recording = make_fx(lambda _: take())(nothing)
    return lambda: recording(nothing)


MAKERS = [Case.erase, replaying, attack]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("make", MAKERS)
def test_what_a_step_computes_follows_from_tensors_that_stay_at_their_places(make, gate):
    """The operations of one step, recorded on the CPU, are those of every other: no value was looked at."""
    phase = make(Case(settings(gate, anchor_noise=0.05, gradient_clip=0.5)))
    phase.draw()
    replay = traced(phase.compute)
    for _ in range(3):
        phase.draw()
        phase.moving += 0.1
        expected, gradient = phase.compute(), phase.gradient.clone()
        phase.gradient.zero_()
        torch.testing.assert_close(replay(), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(phase.gradient, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("capture", [None, traced])
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("make", MAKERS)
def test_steps_are_those_of_adam_at_the_rate_of_each_recorded_or_not(make, resumed, capture):
    rates = (1e-2, 0.0, 3e-3, 1e-3, 2e-2)
    plain = make(Case(settings(GATES[0], anchor_noise=0.05)))
    optimizer = torch.optim.Adam([plain.moving], lr=0.0)
    expected = []
    for rate in rates:
        plain.draw()
        expected.append(plain.compute())
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    stepper = Stepper(make(Case(settings(GATES[0], anchor_noise=0.05))), {}, capture)
    losses = [stepper.step(rate) for rate in rates[:3]]
    if resumed:
        stepper = Stepper(stepper.phase, stepper.state(), capture)
    losses += [stepper.step(rate) for rate in rates[3:]]
    assert (stepper.take == stepper._take) == (capture is None)
    torch.testing.assert_close([*losses, stepper.phase.moving], [*expected, plain.moving], rtol=1e-9, atol=1e-12)


class Counter:
    """A step that adds its rate to a tensor, and how often it ran."""

    def __init__(self):
        self.rate, self.total, self.taken = torch.tensor(2.0), torch.tensor([1.0, 3.0]), 0

    def take(self):
        self.taken += 1
        self.total += self.rate
        return self.total * 10


def test_a_recording_that_does_what_the_step_does_is_taken_and_moves_nothing():
    counter = Counter()
    replay = record(counter.take, [counter.total], lambda take: take)
    assert counter.total.tolist() == [1, 3]
    assert counter.taken >= 3, "the step itself, and the recording twice"
    assert replay().tolist() == [30, 50]


def nothing(take):
    return lambda: torch.tensor([30.0, 50.0])  # the right losses, and no move


def stale(take):
    found = take()
    return lambda: (take(), found)[1] * 1.01


def not_a_number(take):
    return lambda: take() * torch.nan


@pytest.mark.parametrize("capture", [nothing, stale, not_a_number])
def test_a_recording_that_does_something_else_is_refused(capture):
    counter = Counter()
    with pytest.raises(RuntimeError, match="the recorded step differs"):
        record(counter.take, [counter.total], capture)
    assert counter.total.tolist() == [1, 3]


def test_a_step_that_cannot_be_recorded_leaves_everything_as_it_was():
    def broken(take):
        take()
        raise RuntimeError("operation not permitted when stream is capturing")

    counter = Counter()
    with pytest.raises(RuntimeError, match="not permitted"):
        record(counter.take, [counter.total], broken)
    assert counter.total.tolist() == [1, 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_recorded_on_a_gpu_train_the_gates_that_a_cpu_trains(caplog):
    config = CONFIG.model_copy(update={"stages": 1, "copies": 0, "anchor_noise": 0.0})
    found = []
    for device in ("cpu", "cuda"):
        base = BaseProjections.of(small_unet(), tokens=TOKENS, device=device)
        gates, _ = trained([concept("a", 1), concept("b", 2)], base, config)
        found.append({name: tensor.cpu() for name, tensor in gates.trained().items()})
    torch.testing.assert_close(*found, rtol=2e-3, atol=2e-5)
    assert "not recorded" not in caplog.text


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("make", MAKERS)
def test_no_sum_of_a_step_depends_on_the_order_of_threads(make, gate):
    """On a GPU these operations add in the order in which threads arrive: no two runs need give the same bits."""
    phase = make(Case(settings(gate, anchor_noise=0.05)))
    phase.draw()
    used = {str(node.target) for node in make_fx(lambda _: phase.compute())(torch.zeros(())).graph.nodes}
    assert any("bmm" in name for name in used), "the step was recorded"
    for unordered in ("index_add", "scatter_add", "scatter_reduce", "index_put", "cumsum", "bincount", "histc"):
        assert not [name for name in used if unordered in name], unordered


@pytest.mark.parametrize(("erased", "copied"), [(1, 16), (1, 32), (4, 8), (12, 8), (2, 5), (3, 0)])
def test_copies_are_added_to_their_targets(erased, copied):
    rows = torch.randn(2, copied + erased, TOKENS, 6, generator=torch.Generator().manual_seed(0))
    expected = rows[:, copied:].index_add(1, torch.arange(copied) % erased, rows[:, :copied])
    torch.testing.assert_close(with_copies(rows, copied), expected)
    if copied <= 2 * erased or erased > 1:  # as in the embedded model's presets, whose gates must come out as before
        assert torch.equal(with_copies(rows, copied), expected)

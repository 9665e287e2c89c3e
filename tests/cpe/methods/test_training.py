"""Training moves only gates, repeats itself, keeps concepts apart, and erases."""

import math

import pytest
import torch

import cpe.methods.pinpoint.phases.mixing
from benchmarks import plain
from cpe.methods.pinpoint.batch import Batch, ConceptTexts, fresh_gates
from cpe.methods.pinpoint.config import PRESETS, TrainingConfig
from cpe.methods.pinpoint.phases.erase import ErasePhase
from cpe.methods.pinpoint.phases.mixing import mix_anchors
from cpe.methods.pinpoint.records import learning_rate
from cpe.methods.pinpoint.training import steps_in_all, train
from cpe.models.projections import BaseProjections
from cpe.models.sites import find_projections
from helpers.small import TOKENS, WIDTH, as_plain, random_text, small_base, small_unet
from helpers.training import CONFIG, TABLE, concept, trained


@pytest.fixture(scope="module")
def base():
    return small_base(torch.float32)


def test_the_same_seed_gives_the_same_gate(base):
    one, _ = trained([concept("a", 1)], base)
    two, _ = trained([concept("a", 1)], base)
    for name, tensor in one.trained().items():
        assert torch.equal(tensor, getattr(two, name)), name


def test_another_seed_gives_another_gate(base):
    texts = concept("a", 1)
    other = ConceptTexts("a", texts.target, texts.surrogate, TABLE, 2, texts.anchor_rows)
    assert not torch.allclose(trained([texts], base)[0].up, trained([other], base)[0].up)


def test_a_concept_trains_the_same_alone_and_in_any_company(base):
    alone, _ = trained([concept("a", 1)], base)
    together, _ = trained([concept("b", 2), concept("a", 1), concept("c", 3)], base)
    for name, tensor in alone.trained().items():
        torch.testing.assert_close(getattr(together, name)[1:2], tensor, rtol=2e-3, atol=2e-5)


def test_training_moves_only_gates(base):
    unet = small_unet()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    texts = concept("a", 1)
    copies = [texts.target.clone(), texts.surrogate.clone(), TABLE.clone()]
    gates, _ = trained([texts], BaseProjections.of(unet, tokens=TOKENS))
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(copies, (texts.target, texts.surrogate, TABLE), strict=True))
    fresh = fresh_gates([texts], base, CONFIG)
    assert all(not torch.equal(value, getattr(fresh, name)) for name, value in gates.trained().items())
    assert torch.equal(gates.key, fresh.key), "tied keys are stored, not trained"


def test_records_count_every_step_and_losses_fall(base):
    _, records = trained([concept("a", 1), concept("b", 2)], base)
    assert len(records) == steps_in_all(CONFIG) == 40 + 10 + 20
    assert [r.phase for r in records[39:51]] == ["erase"] + ["adversary"] * 10 + ["erase"]
    first, last = records[0], records[39]
    assert all(end < 0.9 * start for start, end in zip(first.erase, last.erase, strict=True))
    search = [r for r in records if r.phase == "adversary"]
    assert all(end < start for start, end in zip(search[0].erase, search[-1].erase, strict=True))
    attacked = [r for r in records if r.stage == 1 and r.phase == "erase"]
    assert all(end < start for start, end in zip(attacked[0].adversarial, attacked[-1].adversarial, strict=True))


def test_learning_rate_warms_up_and_restarts():
    rates = [learning_rate(s, 105, peak=1.0, warmup=5, cycles=2) for s in range(105)]
    assert rates[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[54] < 0.01 < 0.99 < rates[55]
    assert rates[-1] < 0.01


@pytest.mark.parametrize("way", ["_mix_in_cache", "_mix_at_once"])
def test_anchors_are_mixtures_and_their_noise_spreads_as_that_of_a_pair(way, monkeypatch):
    monkeypatch.setattr(
        "cpe.methods.pinpoint.phases.mixing._mix_in_cache", getattr(cpe.methods.pinpoint.phases.mixing, way)
    )
    table = torch.zeros(4, TOKENS, WIDTH, dtype=torch.float64)
    table[:, :, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    rows = torch.tensor([[[0, 1, 2], [3, 2, 1]]])
    share = torch.tensor([1.0, 0.25, 0.0], dtype=torch.float64)[None, :, None, None]
    out = torch.empty(1, 3, TOKENS, WIDTH, dtype=torch.float64)
    spread = mix_anchors(table, rows, share, out, over_prompt=False)
    expected = torch.tensor([1.0, 0.25 * 2 + 0.75 * 3, 2.0], dtype=torch.float64)
    torch.testing.assert_close(out[0, :, :, 0], expected[:, None].expand(3, TOKENS))
    assert torch.equal(out[..., 1:], torch.zeros_like(out[..., 1:]))
    widths = torch.tensor([1.0, math.hypot(0.25 * 2, 0.75 * 3), 2.0], dtype=torch.float64)
    torch.testing.assert_close(spread[0, :, :, 0], widths[:, None].expand(3, TOKENS))
    whole = mix_anchors(table, rows, share, out, over_prompt=True)
    assert whole.shape == (1, 3, 1, 1)
    torch.testing.assert_close(whole.flatten(), widths * math.sqrt(TOKENS))


def test_texts_of_another_width_are_refused(base):
    texts = concept("a", 1)
    wrong = ConceptTexts("a", texts.target[..., :8], texts.surrogate[..., :8], TABLE[..., :8], 0)
    with pytest.raises(ValueError, match="text width 8, the base model expects 20"):
        fresh_gates([wrong], base, CONFIG)


def test_a_network_without_cross_attention_is_refused():
    with pytest.raises(ValueError, match="no cross-attention"):
        find_projections(torch.nn.Linear(2, 2))


class PlainTraining:
    """The algorithm box written out for one concept, with the plain formulas and torch's Adam alone."""

    def __init__(self, texts: ConceptTexts, empty: torch.Tensor, config: TrainingConfig) -> None:
        unet = small_unet().double()
        state = unet.state_dict()
        names = [name for name, _ in unet.named_modules() if name.endswith((".to_k", ".to_v"))]
        self.projections = [state[f"{name}.weight"] for name in names]
        self.weights = plain.site_weights(state, names, TOKENS)
        self.texts, self.empty, self.config = texts, empty[None], config
        self.choices = torch.Generator().manual_seed(texts.seed + 1)
        self.noise = torch.Generator().manual_seed(texts.seed + 2)
        gates = fresh_gates([texts], small_base(), config)
        self.gate = as_plain(gates)
        self.parameters = [self.gate["query"], self.gate["score"], *self.gate["downs"], *self.gate["ups"]]
        self.parameters = [p.clone() for p in self.parameters]
        self._put_back()
        self.losses: list[tuple[float, float, float]] = []

    def _put_back(self) -> None:
        sites = self.gate["sites"]
        self.gate["query"], self.gate["score"], *rest = self.parameters
        self.gate["downs"], self.gate["ups"] = rest[:sites], rest[sites:]

    def error(self, text, offset):
        return plain.error(text, offset, self.gate, self.projections, self.weights, alpha=1.0, tied=True)

    def run(self) -> None:
        config, shape = self.config, self.texts.target.shape
        copies = self.texts.target[:0]
        for stage in range(config.stages):
            if stage:
                bound = (shape[1] * shape[2]) ** -0.5 / shape[2] ** 2
                drawn = torch.empty(config.copies, *shape[1:], dtype=torch.float64)
                drawn.uniform_(-bound, bound, generator=self.noise)
                copies = self.search(drawn.requires_grad_()).detach()
            self.erase(stage, copies)

    def rate(self, step: int, steps: int, peak: float, cycles: int, warmup: int) -> float:
        if step < warmup:
            return peak * step / warmup
        share = cycles * (step - warmup) / (steps - warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * (share - math.floor(share))))

    def targets(self):
        count = self.config.targets_per_step
        rows = torch.randint(len(self.texts.target), (count,), generator=self.choices)
        target, surrogate = self.texts.target[rows], self.texts.surrogate[rows]
        return target, (1 + self.config.strength) * (surrogate - target)

    def anchors(self):
        count, given = self.config.anchors_per_step, self.texts.anchors[self.texts.anchor_rows].double()
        first, second = given[torch.randint(len(given), (2, count), generator=self.choices)]
        share = torch.rand(count, generator=self.choices).double()[:, None, None]
        columns = torch.cat([self.parameters[0], self.parameters[1], *self.gate["downs"]], dim=1).detach()
        seen = torch.randn(count, len(first[0]), columns.shape[1], generator=self.noise, dtype=torch.float64)
        noise = seen @ torch.linalg.qr(columns).Q.T  # what the gate's columns can see of the noise
        over = (-2, -1) if self.config.anchor_noise_over == "prompt" else -1
        norms = [(x * x).sum(over, keepdim=True) for x in (first, second)]
        width = self.config.anchor_noise * (share**2 * norms[0] + (1 - share) ** 2 * norms[1]).sqrt()
        return torch.cat([share * first + (1 - share) * second + width * noise, self.empty])

    def erase(self, stage: int, copies) -> None:
        config = self.config
        steps = config.later_steps if stage else config.first_steps
        peak, cycles = (config.later_rate, 1) if stage else (config.first_rate, 2)
        optimizer = torch.optim.Adam([p.requires_grad_() for p in self.parameters])
        for step in range(steps):
            rate = self.rate(step, steps, peak, cycles, config.warmup_steps)
            target, offset = self.targets()
            quiet = self.anchors()
            paired = [i % len(target) for i in range(len(copies))]
            erase = self.error(target, offset).mean()
            attacked = target[paired] + copies
            adversarial = self.error(attacked, offset[paired] - copies).mean() if len(copies) else erase * 0
            anchor = self.error(quiet, torch.zeros_like(quiet)).mean()
            optimizer.zero_grad()
            (erase + adversarial + config.anchor_weight * anchor).backward()
            self.move(optimizer, rate)
            self.losses.append((erase.item(), adversarial.item(), anchor.item()))
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def move(self, optimizer, rate: float) -> None:
        """Adam's step, and beside it the decay that AdamW adds to Adam."""
        optimizer.param_groups[0]["lr"] = rate
        with torch.no_grad():
            for parameter in optimizer.param_groups[0]["params"]:
                parameter -= rate * self.config.weight_decay * parameter
        optimizer.step()

    def search(self, copies):
        config = self.config
        warmup = config.warmup_steps if config.adversary_warmup_steps is None else config.adversary_warmup_steps
        optimizer = torch.optim.Adam([copies])
        for step in range(config.adversary_steps):
            rate = self.rate(step, config.adversary_steps, config.adversary_rate, 1, warmup)
            target, _ = self.targets()
            paired = [i % len(target) for i in range(len(copies))]
            loss = self.error(target[paired] + copies, -copies).mean()
            optimizer.zero_grad()
            loss.backward()
            self.move(optimizer, rate)
            self.losses.append((loss.item(), 0.0, 0.0))
        return copies


@pytest.mark.parametrize(
    "released", [{}, {"anchor_noise_over": "prompt", "weight_decay": 0.3, "adversary_warmup_steps": 1}]
)
def test_training_equals_the_algorithm_written_plainly_in_float64(released):
    steps = {"first_steps": 14, "later_steps": 9, "adversary_steps": 8, "warmup_steps": 3, "later_rate": 4e-3}
    config = CONFIG.model_copy(update={**steps, **released})
    single = concept("a", 1)
    texts = ConceptTexts("a", single.target.double(), single.surrogate.double(), TABLE, 1, single.anchor_rows)
    empty = random_text(1, seed=999)[0]
    expected = PlainTraining(texts, empty, config)
    expected.run()
    base = small_base()
    records = []
    gates = train([texts], base, empty, config, watch=records.append).gates
    losses = [(r.erase[0], r.adversarial[0], r.anchor[0]) for r in records]
    torch.testing.assert_close(
        torch.tensor(losses), torch.tensor(expected.losses, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )
    for name in ("query", "score"):
        torch.testing.assert_close(as_plain(gates)[name], expected.gate[name], rtol=1e-7, atol=1e-10)
    for name in ("downs", "ups"):
        for ours, plainly in zip(as_plain(gates)[name], expected.gate[name], strict=True):
            torch.testing.assert_close(ours, plainly, rtol=1e-7, atol=1e-10)


def end_of(stage: int, place: int, records) -> float:
    """Returns the mean loss of one concept over the last tenth of an erasing stage."""
    own = [r for r in records if r.stage == stage and r.phase == "erase" and place in r.concepts][-2:]  # of 20 steps
    index = own[0].concepts.index(place)
    losses = [r.erase[index] + r.adversarial[index] + CONFIG.anchor_weight * r.anchor[index] for r in own]
    return (sum(losses) / len(losses)).item()


@pytest.mark.parametrize("plateau", [0.02, 0.5])
def test_a_gate_is_done_once_a_stage_gains_too_little_and_the_others_go_on(plateau, base):
    config = CONFIG.model_copy(update={"stages": 5, "plateau": plateau})
    gates, records = trained([concept("a", 1), concept("b", 2), concept("c", 3)], base, config)
    last = [max(r.stage for r in records if place in r.concepts) for place in range(3)]
    assert plateau > 0.02 or len(set(last)) > 1, f"the case needs gates that end at different stages, got {last}"
    for place in range(3):
        shares = [
            end_of(stage, place, records) / end_of(stage - 1, place, records) for stage in range(2, last[place] + 1)
        ]
        assert all(share <= 1 - plateau for share in shares[:-1])
        assert last[place] == 4 or shares[-1] > 1 - plateau
        alone, own = trained([concept("abc"[place], place + 1)], base, config)
        assert own[-1].stage == last[place]
        torch.testing.assert_close(gates.up[place], alone.up[0], rtol=2e-3, atol=2e-5)


def test_options_beyond_the_paper_are_off_in_its_presets():
    for name in ("celebrity", "artist", "explicit"):
        config = PRESETS[name]
        assert (config.replay, config.gradient_clip, config.plateau, config.gate.tied_qk) == (0, None, 0.0, True), name
        assert config.way_anchors == 0, name


def test_replay_and_clipping_change_the_gate(base):
    plainly, _ = trained([concept("a", 1)], base, CONFIG.model_copy(update={"stages": 3}))
    for change in ({"replay": 2}, {"gradient_clip": 0.01}):
        other, _ = trained([concept("a", 1)], base, CONFIG.model_copy(update={"stages": 3, **change}))
        assert not torch.allclose(plainly.up, other.up), change


def test_anchors_on_the_way_lie_between_an_anchor_and_the_target(base):
    config = CONFIG.model_copy(update={"way_anchors": 4, "way_share": 0.3, "anchor_noise": 0.0})
    texts, empty = concept("a", 1), random_text(1, seed=999).float()[0]
    batch = Batch.fresh([texts], base, empty, config)
    none = batch.flat.new_zeros(1, 0, *empty.shape)
    phase = ErasePhase(batch, none, none, base, config)
    for _ in range(3):
        phase.draw()
        for place in range(4):
            start = texts.anchors[phase.rows[0, 0, place]].to(batch.flat)
            end = batch.target[0, phase.on_way[0, place]]
            torch.testing.assert_close(phase.anchors[0, place], 0.7 * start + 0.3 * end)


def test_without_anchors_on_the_way_nothing_else_is_drawn(base):
    config = CONFIG.model_copy(update={"way_share": 0.9})
    torch.testing.assert_close(trained([concept("a", 1)], base)[0].up, trained([concept("a", 1)], base, config)[0].up)


def test_more_anchors_on_the_way_than_a_step_holds_are_refused():
    with pytest.raises(ValueError, match=r"way_anchors must be at most anchors_per_step \(6\), got 7"):
        TrainingConfig(**{**CONFIG.model_dump(), "way_anchors": 7})

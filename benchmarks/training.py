"""One training step, plainly and ours, side by side: `python -m benchmarks.training` (`--json` for programs).

The plain step is what the formulas say: every projection of every prompt, with and without gates, the gate computed
for each projection, gradients by autograd. Ours is what `cpe.train` runs. Both take the same texts, the same gates and
the same number of threads, in one process, in turns.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from benchmarks.memory import peak_mib, reset_peak
from benchmarks.shapes import TOKENS, UNETS, build_attentions
from cpe.config import PRESETS, TrainingConfig
from cpe.gates import Gates
from cpe.phases import AttackPhase, ErasePhase
from cpe.projections import BaseProjections
from cpe.training import ConceptTexts, Training, train

TEMPLATES, ANCHORS = 20, 2000  # embeddings in the table that anchors are drawn from
RESTLESS = 0.02  # standard deviation of the up matrices: a gate in the middle of its training, not one at its start


def concepts_of(count: int, tokens: int, width: int) -> tuple[list[ConceptTexts], Tensor]:
    """Returns concepts with texts of a text encoder's size, and the empty prompt; norms are those of CLIP's states."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(ANCHORS, tokens, width, generator=generator).half()
    texts = torch.randn(count, 2, TEMPLATES, tokens, width, generator=generator)
    concepts = [ConceptTexts(str(i), texts[i, 0], texts[i, 1], table, seed=i) for i in range(count)]
    return concepts, torch.randn(tokens, width, generator=generator)


class Steps:
    """Our step and the plain one of either kind, on the same texts.

    Args:
        base: the model's projections.
        config: the preset.
    """

    def __init__(self, base: BaseProjections, config: TrainingConfig) -> None:
        self.base, self.config = base, config
        concepts, empty = concepts_of(1, base.tokens, base.text_width)
        run = Training(concepts, base, empty.to(base.gram), config)
        run.renew_copies()
        up = run.fresh.viewing(run.flat).up
        up += RESTLESS * torch.randn(up.shape, generator=torch.Generator().manual_seed(1)).to(up)
        self.erase, self.attack = run.erase_phase(), run.attack_phase()
        self.optimizers: dict[ErasePhase | AttackPhase, torch.optim.Optimizer] = {
            phase: torch.optim.Adam([phase.flat], lr=0.0, fused=True) for phase in (self.erase, self.attack)
        }
        self.basis = torch.linalg.qr(self.erase.side[0].clone()).Q
        self.plain_gate = plain_gate(run.fresh.viewing(self.erase.flat))
        self.plain_parameters = [self.plain_gate[n] for n in ("query", "score")]
        self.plain_parameters += [*self.plain_gate["downs"], *self.plain_gate["ups"]]
        self.plain_copies = self.attack.flat[0].clone()
        self.plain_optimizers = [torch.optim.Adam(self.plain_parameters), torch.optim.Adam([self.plain_copies])]
        for optimizer in self.plain_optimizers:
            optimizer.param_groups[0]["lr"] = 0.0  # both stay where they are, so that they can be compared

    def ours(self, phase: ErasePhase | AttackPhase) -> Tensor:
        """Takes one of our steps; returns its losses."""
        phase.draw()
        losses = phase.compute()
        self.optimizers[phase].step()
        return losses

    def plain_erase(self) -> tuple[Tensor, list[Tensor]]:
        """Takes the plain erasing step on the texts of our last one; returns its loss and gradients."""
        config, step = self.config, self.erase
        template = step.template[0]
        target, surrogate = step.texts.target[0, template], step.texts.surrogate[0, template]
        attacked = target[step.pairing] + step.copies[0]
        quiet = torch.cat([step.texts.empty[None], self.noisy_anchors()])
        total: Tensor | float = 0.0
        with plain.trainable(self.plain_parameters):
            for site in range(len(self.base.names)):
                erased = self._output(target, site) - self._aim(target, surrogate, site)
                fooled = self._output(attacked, site) - self._aim(target, surrogate, site)[step.pairing]
                moved = self._output(quiet, site) - quiet @ self.base.matrices[site].T
                loss = _mean(erased) + _mean(fooled) + config.anchor_weight * _mean(moved)
                total = total + self._weight(site) * loss
            return self._finish(total, self.plain_parameters, self.plain_optimizers[0])

    def noisy_anchors(self) -> Tensor:
        """Returns the anchors of our last step with the noise that it drew, (A, T, D)."""
        step = self.erase
        if not step.spanned:
            return step.anchors[0]
        return step.anchors[0] + step.noise[0] @ self.basis.T

    def plain_attack(self) -> tuple[Tensor, list[Tensor]]:
        """Takes the plain adversary's step on the texts of our last one."""
        step = self.attack
        target = self.erase.texts.target[0, step.template[0]][step.pairing]
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
        losses = self.ours(self.erase)
        loss, gradients = self.plain_erase()
        ours = losses[0] + losses[1] + self.config.anchor_weight * losses[2]
        found["erase loss"] = ((ours - loss).abs() / loss.abs()).item()
        assert self.erase.flat.grad is not None
        gate = plain_gate(self.erase.gates.viewing(self.erase.flat.grad))
        pieces = [gate["query"], gate["score"], *gate["downs"], *gate["ups"]]
        found["erase gradient"] = max(_distance(a, b) for a, b in zip(pieces, gradients, strict=True))
        losses = self.ours(self.attack)
        loss, gradients = self.plain_attack()
        found["adversary loss"] = ((losses[0] - loss).abs() / loss.abs()).item()
        assert self.attack.flat.grad is not None
        found["adversary gradient"] = _distance(self.attack.flat.grad[0], gradients[0])
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


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Returns how long some work takes, on a GPU until it is done."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gflop(work: Callable[[], Any]) -> float:
    """Returns the multiply-adds of some work's products, two operations each, in 1e9."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def where_time_goes(step: Callable[[], Any], steps: int, top: int = 8) -> list[dict[str, Any]]:
    """Returns the operations that take most of a step, by PyTorch's profiler."""
    with torch.profiler.profile() as profiled:
        for _ in range(steps):
            step()
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_cpu_time_total)[:top]
    return [
        {"operation": r.key, "ms_per_step": r.self_cpu_time_total / 1e3 / steps, "calls": r.count / steps} for r in rows
    ]


def measure(
    unet: nn.Module, *, config: TrainingConfig, device: str = "cpu", tokens: int = TOKENS, rounds: int = 5
) -> dict[str, Any]:
    """Returns step times of both ways, their ratio, work, memory and agreement, on a U-Net's projections."""
    where = torch.device(device)
    with TemporaryDirectory() as cache:
        start = time.perf_counter()
        base = BaseProjections.of(unet, tokens=tokens, device=device, cache=Path(cache))
        first = time.perf_counter() - start
        again = seconds(lambda: BaseProjections.of(unet, tokens=tokens, device=device, cache=Path(cache)), where)
    steps = Steps(base, config)
    kinds: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "erase": (lambda: steps.ours(steps.erase), steps.plain_erase),
        "adversary": (lambda: steps.ours(steps.attack), steps.plain_attack),
    }
    result: dict[str, Any] = {"spectral_norms_and_m_s": first, "spectral_norms_and_m_cached_s": again}
    before = reset_peak(where)
    for ours, _ in kinds.values():
        ours()
    result["peak_mib_ours"] = peak_mib(where) - before
    before = reset_peak(where)
    for name, (ours, plainly) in kinds.items():
        result[name] = {"gflop_ours": gflop(ours), "gflop_plain": gflop(plainly)}
    result["peak_mib_plain"] = peak_mib(where) - before
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in kinds}
    for _ in range(rounds):
        for name, (ours, plainly) in kinds.items():
            times[name][0].append(median(seconds(ours, where) for _ in range(15)))
            times[name][1].append(seconds(plainly, where))
    for name, (fast, slow) in times.items():
        ratios = sorted(b / a for a, b in zip(fast, slow, strict=True))
        result[name] |= {
            "ms_ours": 1e3 * median(fast),
            "ms_plain": 1e3 * median(slow),
            "ratio": median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
            "where": where_time_goes(kinds[name][0], 10),
        }
    exact = BaseProjections.of(unet, tokens=tokens, device=device, dtype=torch.float64)
    result["disagreement"] = Steps(exact, config).disagreement()
    return result


def scaling(base: BaseProjections, config: TrainingConfig, counts: Sequence[int], steps: int) -> list[dict[str, Any]]:
    """Returns seconds a step and concept of training so many concepts as one batch, at a reduced number of steps."""
    short = config.model_copy(
        update={"stages": 2, "first_steps": steps, "later_steps": steps, "adversary_steps": steps}
    )
    found = []
    for count in counts:
        concepts, empty = concepts_of(count, base.tokens, base.text_width)
        times: dict[str, list[float]] = {"erase": [], "adversary": []}
        last = [time.perf_counter()]

        def watch(record: Any, times: dict[str, list[float]] = times, last: list[float] = last) -> None:
            _wait(base.gram.device)
            now = time.perf_counter()
            times[record.phase].append(now - last[0])
            last[0] = now

        train(concepts, base, empty.to(base.gram), short, watch=watch)
        found.append(
            {"concepts": count, **{f"{k}_ms_per_concept": 1e3 * median(v[1:]) / count for k, v in times.items()}}
        )
    return found


def whole(base: BaseProjections, config: TrainingConfig) -> dict[str, float]:
    """Returns what training one gate with every step of a preset takes, texts and projections being there."""
    concepts, empty = concepts_of(1, base.tokens, base.text_width)
    before = reset_peak(base.gram.device)
    spent = seconds(lambda: train(concepts, base, empty, config), base.gram.device)
    return {"seconds": spent, "peak_mib": peak_mib(base.gram.device) - before}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(UNETS), default="sd-v1.4")
    parser.add_argument("--preset", choices=list(PRESETS), default="celebrity")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="plain steps of each kind; ours run 15 times as often")
    parser.add_argument("--concepts", type=int, nargs="*", default=[], help="batches to show the growth of work with")
    parser.add_argument("--steps", type=int, default=10, help="steps a phase for --concepts")
    parser.add_argument("--whole", action="store_true", help="also train one gate with every step of the preset")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    config, unet = PRESETS[chosen.preset], build_attentions(chosen.shape)
    result = {"shape": chosen.shape, "preset": chosen.preset, "device": chosen.device, "threads": chosen.threads}
    base = BaseProjections.of(unet, tokens=TOKENS, device=chosen.device) if chosen.whole or chosen.concepts else None
    if base is not None and chosen.whole:
        result["whole"] = whole(base, config)
    result |= measure(unet, config=config, device=chosen.device, rounds=chosen.rounds)
    result |= totals(result, config)
    if base is not None and chosen.concepts:
        result["scaling"] = scaling(base, config, chosen.concepts, chosen.steps)
    print(json.dumps(result, indent=1) if chosen.json else report(result))


def totals(result: dict[str, Any], config: TrainingConfig) -> dict[str, Any]:
    """Returns what one whole training takes at the measured step times and work."""
    erasing = config.first_steps + (config.stages - 1) * config.later_steps
    searching = (config.stages - 1) * config.adversary_steps
    return {
        f"training_{unit}": scale * (erasing * result["erase"][name] + searching * result["adversary"][name])
        for unit, name, scale in (
            ("seconds_ours", "ms_ours", 1e-3),
            ("seconds_plain", "ms_plain", 1e-3),
            ("tflop_ours", "gflop_ours", 1e-3),
        )
    }


def report(result: dict[str, Any]) -> str:
    """Returns the result as text."""
    lines = [f"{result.get('shape', 'model')}, {result.get('threads', '?')} thread(s), {result.get('device', '?')}"]
    for name in ("erase", "adversary"):
        r = result[name]
        lines += [
            f"{name:10} plain {r['ms_plain']:9.1f} ms {r['gflop_plain']:8.1f} GFLOP",
            f"{'':10} ours  {r['ms_ours']:9.1f} ms {r['gflop_ours']:8.2f} GFLOP   {r['ratio']:.0f} times faster "
            f"({r['ratio_range'][0]:.0f} to {r['ratio_range'][1]:.0f})",
        ]
        shares = ", ".join(f"{w['operation'].removeprefix('aten::')} {w['ms_per_step']:.1f}" for w in r["where"][:6])
        lines.append(f"{'':10} where ours goes, ms: {shares}")
    lines.append(
        f"peak memory of steps beyond texts and model: ours {result['peak_mib_ours']:.0f} MiB, "
        f"plain {result['peak_mib_plain']:.0f} MiB"
    )
    lines.append(
        "relative difference in float64: " + ", ".join(f"{k} {v:.1e}" for k, v in result["disagreement"].items())
    )
    lines.append(
        f"spectral norms and M: {result['spectral_norms_and_m_s']:.1f} s once, "
        f"{result['spectral_norms_and_m_cached_s']:.2f} s from the cache"
    )
    lines.append(
        f"one whole training: ours {result['training_seconds_ours']:.0f} s, {result['training_tflop_ours']:.1f} "
        f"TFLOP; plain {result['training_seconds_plain']:.0f} s"
    )
    if "whole" in result:
        spent = result["whole"]
        lines.append(f"one whole training, run: {spent['seconds']:.0f} s, {spent['peak_mib']:.0f} MiB beyond the texts")
    for row in result.get("scaling", []):
        lines.append(
            f"{row['concepts']:4} concepts in one batch: {row['erase_ms_per_concept']:.1f} ms an erasing step "
            f"and concept, {row['adversary_ms_per_concept']:.1f} ms an adversary step and concept"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

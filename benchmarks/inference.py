"""What erasing costs while drawing: `python -m benchmarks.inference` (`--json` for programs).

One process draws with the untouched U-Net and with erasers of several sizes in turns, each time a prompt never seen
before: conditional and unconditional text in one batch, guidance, and a scheduler's step, as a pipeline does it.
The first step of a prompt also scores its gates; what it takes beyond a usual step is the cost once a prompt.
"""

import argparse
import json
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from benchmarks.memory import peak_mib, reset_peak
from benchmarks.shapes import TOKENS, UNETS, build_unet
from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.storage.files import LoadedGates
from cpe.models.sites import find_projections

COUNTS = (1, 50, 500)
GUIDANCE = 7.5
SCALES = {"query": 0.8, "key": 0.8, "score": 1.0, "down": 1.0, "up": 0.1}  # times 1/√D; tokens are won by many gates


def random_gates(unet: nn.Module, count: int, *, config: GateConfig | None = None, seed: int = 0) -> LoadedGates:
    """Returns gates for a U-Net, drawn at random so that a prompt's tokens are won by many of them.

    Args:
        unet: the network.
        count: number of gates.
        config: their shape; the default one if None.
        seed: of the draw.
    """
    config, projections = config or GateConfig(), find_projections(unet)
    widths = tuple(module.weight.shape[0] for module in projections.values())
    text_width = next(iter(projections.values())).weight.shape[1]
    gates = drawn_gates(config, widths, text_width, count, seed)
    return LoadedGates(tuple(f"concept {n}" for n in range(count)), tuple(projections), gates)


def drawn_gates(config: GateConfig, widths: tuple[int, ...], text_width: int, count: int, seed: int = 0) -> Gates:
    """Returns such gates for projections of these widths."""
    columns = {
        "query": (text_width, config.gate_rank),
        "key": (text_width, config.gate_rank),
        "score": (text_width, 1),
        "down": (text_width, config.adapter_rank * len(widths)),
        "up": (config.adapter_rank, sum(widths)),
    }
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.randn(count, *shape, generator=generator) * (SCALES[name] * text_width**-0.5)
        for name, shape in columns.items()
    }
    return Gates(config, widths, **drawn)


def measure(
    pipe: Any,
    *,
    counts: Sequence[int] = COUNTS,
    latent: int | None = None,
    steps: int = 3,
    rounds: int = 5,
    device: str | torch.device | None = None,
    tokens: int = TOKENS,
) -> dict[str, Any]:
    """Returns seconds a denoising step, once a prompt, and memory: untouched and with erasers of several sizes.

    Args:
        pipe: a pipeline of the Stable Diffusion family or its U-Net, with no eraser attached.
        counts: numbers of gates.
        latent: height and width of the latent picture; the model's own if None.
        steps: usual steps after each prompt's first.
        rounds: prompts for each size; the sizes take turns, and each round starts at another one.
        device: where to draw; the U-Net is moved there. None draws where it is.
        tokens: prompt length T.

    Returns:
        The setting, and under `rows` for each number of gates, 0 first: `step_s`; `ratio` to the untouched step of the
        same round with its quartiles `ratio_range`; `once_s` and `once_steps`, the cost once a prompt in seconds and
        in untouched steps; `peak_mib` and `kept_mib`, the most memory while drawing and what the gates take.
    """
    unet = getattr(pipe, "unet", pipe)
    if device is not None:
        unet.to(device)
    loop = _Loop(unet, latent, tokens)
    gates = random_gates(unet, max(counts))
    sizes = {n: Eraser([LoadedGates(gates.concepts[:n], gates.sites, gates.gates[:n])]) for n in sorted(set(counts))}
    erasers: dict[int, Eraser | None] = {0: None, **sizes}
    order = list(erasers)
    times: dict[int, list[list[float]]] = {count: [] for count in order}
    peaks = dict.fromkeys(order, 0.0)
    for round_number in range(-1, rounds):  # the first, which warms up, does not count
        turn = round_number % len(order)
        for count in order[turn:] + order[:turn]:
            reset_peak(loop.device)
            taken = loop.draw(erasers[count], steps if round_number >= 0 else 1, seed=round_number)
            peaks[count] = max(peaks[count], peak_mib(loop.device))
            if round_number >= 0:
                times[count].append(taken)
    usual = {count: [median(taken[1:]) for taken in times[count]] for count in order}
    rows = []
    for count in order:
        ratios = [ours / plain for ours, plain in zip(usual[count], usual[0], strict=True)]
        once = median(taken[0] - step for taken, step in zip(times[count], usual[count], strict=True))
        rows.append(
            {
                "gates": count,
                "step_s": median(usual[count]),
                "ratio": median(ratios),
                "ratio_range": quantiles(ratios * 2, n=4, method="inclusive")[::2],
                "once_s": once,
                "once_steps": once / median(usual[0]),
                "peak_mib": peaks[count],
                "kept_mib": _mib_of(gates.gates[:count]),
            }
        )
    setting = {"latent": loop.latent, "steps": steps, "rounds": rounds, "projections": len(gates.sites)}
    return {"device": str(loop.device), "dtype": str(loop.dtype).removeprefix("torch."), **setting, "rows": rows}


class _Loop:
    """A denoising loop with guidance, around any U-Net that pipelines of the Stable Diffusion family use."""

    def __init__(self, unet: Any, latent: int | None, tokens: int) -> None:
        weight = next(iter(find_projections(unet).values())).weight
        self.unet: Any = unet
        self.config: Any = unet.config
        self.device, self.dtype = weight.device, weight.dtype
        self.text_shape = (2, tokens, weight.shape[1])
        self.latent: int = latent or self.config.sample_size
        self.scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        )

    @torch.no_grad()
    def draw(self, eraser: Eraser | None, steps: int, *, seed: int) -> list[float]:
        """Returns the seconds of each step of one prompt: the first, and so many usual ones."""
        generator = torch.Generator().manual_seed(seed)
        text = torch.randn(self.text_shape, generator=generator).to(self.device, self.dtype)
        sample = torch.randn(1, self.config.out_channels, self.latent, self.latent, generator=generator)
        sample = sample.to(self.device, self.dtype)
        self.scheduler.set_timesteps(steps + 1)
        if eraser is not None:
            eraser.attach(self.unet)
        taken = []
        try:
            for time_step in self.scheduler.timesteps:
                _wait(self.device)
                start = time.perf_counter()
                sample = self._step(sample, time_step, text)
                _wait(self.device)
                taken.append(time.perf_counter() - start)
        finally:
            if eraser is not None:
                eraser.detach()
        return taken

    def _step(self, sample: Tensor, time_step: Tensor, text: Tensor) -> Tensor:
        both = self.scheduler.scale_model_input(torch.cat([sample, sample]), time_step)  # (2, 4, height, width)
        missing = self.config.in_channels - both.shape[1]  # an inpainting model also sees a mask and a picture
        both = torch.cat([both, both.new_zeros(2, missing, *both.shape[2:])], dim=1)
        noise = self.unet(both, time_step, encoder_hidden_states=text, added_cond_kwargs=self._conditions(text))[0]
        empty, full = noise.chunk(2)
        return self.scheduler.step(empty + GUIDANCE * (full - empty), time_step, sample).prev_sample

    def _conditions(self, text: Tensor) -> dict[str, Tensor] | None:
        if self.config.addition_embed_type != "text_time":
            return None
        sizes = text.new_tensor([[1024, 1024, 0, 0, 1024, 1024]] * 2)
        pooled = self.config.projection_class_embeddings_input_dim - 6 * self.config.addition_time_embed_dim
        return {"text_embeds": text.new_zeros(2, pooled), "time_ids": sizes}


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _mib_of(gates: Gates) -> float:
    return sum(t.nbytes for t in (gates.query, gates.key, gates.score, gates.down, gates.up)) / 2**20


def report(result: dict[str, Any]) -> str:
    """Returns the result as text."""
    lines = [
        f"{result.get('shape', 'model')}, latent {result['latent']} x {result['latent']}, guidance, {result['dtype']} "
        f"on {result['device']}, {result.get('threads', '?')} thread(s), {result['rounds']} rounds in turns",
        f"{'gates':>9}{'step, s':>10}{'ratio':>8}{'quartiles':>16}{'once, s':>10}{'in steps':>10}"
        f"{'peak, MiB':>11}{'of it gates':>13}",
    ]
    for row in result["rows"]:
        low, high = row["ratio_range"]
        lines.append(
            f"{row['gates'] or 'untouched':>9}{row['step_s']:10.3f}{row['ratio']:8.3f}{f'{low:.3f} to {high:.3f}':>16}"
            f"{row['once_s']:10.3f}{row['once_steps']:10.2f}{row['peak_mib']:11.0f}{row['kept_mib']:13.1f}"
        )
    lines.append(f"all erasers lie in memory throughout, {result['rows'][-1]['kept_mib']:.0f} MiB of gates")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(UNETS), default="sd-v1.4", help="of the U-Net, random weights")
    parser.add_argument("--gates", type=int, nargs="+", default=list(COUNTS), help="sizes of erasers")
    parser.add_argument("--latent", type=int, default=8, help="height and width of the latent picture")
    parser.add_argument("--steps", type=int, default=3, help="usual steps of each prompt")
    parser.add_argument("--rounds", type=int, default=7, help="prompts for each number of gates")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--json", action="store_true", help="print the figures for programs")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    unet = build_unet(chosen.shape)
    if chosen.dtype != "float32":
        unet.to(getattr(torch, chosen.dtype))
    options = {"latent": chosen.latent, "steps": chosen.steps, "rounds": chosen.rounds, "device": chosen.device}
    result = {"shape": chosen.shape, "threads": chosen.threads, **measure(unet, counts=chosen.gates, **options)}
    print(json.dumps(result, indent=1) if chosen.json else report(result))


if __name__ == "__main__":
    main()

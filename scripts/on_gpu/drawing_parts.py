"""Drawing on a GPU: erasers on a pipeline of Stable Diffusion v1.4's shape with random weights, in half precision."""

# Axes: B prompts, T tokens, D text width, O projection width.

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import inference
from benchmarks.memory import peak_mib, reset_peak
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.storage.files import LoadedGates
from cpe.models.loading import EMBEDDED_FOLDER
from cpe.models.sites import find_projections
from scripts.on_gpu.sizes import Sizes

ROUNDS = 3


def build(sizes: Sizes, device: str, dtype: str) -> Any:
    """Returns a pipeline with the initial weights of its classes, made where it will run."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    special = {"vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406}
    with torch.device(device):
        unet, vae = UNet2DConditionModel(**sizes.unet), AutoencoderKL(**sizes.vae)
        text = CLIPTextModel(CLIPTextConfig(**sizes.text, **special))
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer"),
        unet=unet.eval(),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, getattr(torch, dtype))


def attached(sizes: Sizes, device: str, cache: Path, left: Callable[[], float]) -> dict[str, Any]:
    """Returns in each precision what attaching, drawing and detaching do to a picture's latents.

    `from_hooks` is the distance from adding the residuals by forward hooks, `from_untouched` says that gates work.
    """
    result: dict[str, Any] = {}
    for dtype in sizes.dtypes:
        pipe = build(sizes, device, dtype)
        gates = inference.random_gates(pipe.unet, sizes.gates[0])
        eraser = Eraser([gates])
        fresh = Eraser([LoadedGates(gates.concepts, gates.sites, gates.gates.map(torch.zeros_like))])
        untouched = _latents(pipe, sizes)
        with eraser.attached(pipe):
            erased = _latents(pipe, sizes)
            again = _latents(pipe, sizes)
        with _hooks(pipe, eraser):
            expected = _latents(pipe, sizes)
        with fresh.attached(pipe):
            unchanged = _latents(pipe, sizes)
        restored = _latents(pipe, sizes)
        result[dtype] = {
            "finite": bool(erased.isfinite().all()),
            "from_hooks": _distance(erased, expected),
            "from_untouched": _distance(erased, untouched),
            "same_again": torch.equal(erased, again),
            "zero_gates_change_nothing": torch.equal(unchanged, untouched),
            "detaching_restores": torch.equal(restored, untouched),
        }
        del pipe
    return result


def steps(sizes: Sizes, device: str, cache: Path, left: Callable[[], float]) -> dict[str, Any]:
    """Returns what `benchmarks.inference` measures on the U-Net, at the picture's size, in half precision."""
    unet, latent = build(sizes, device, sizes.dtypes[0]).unet, sizes.picture // 8
    return inference.measure(unet, counts=sizes.gates, latent=latent, steps=5, rounds=5, device=device)


def pictures(sizes: Sizes, device: str, cache: Path, left: Callable[[], float]) -> dict[str, Any]:
    """Returns whole pictures a second and the most memory, for sizes of erasers and of batches."""
    pipe, where, rows = build(sizes, device, sizes.dtypes[0]), torch.device(device), []
    gates = inference.random_gates(pipe.unet, max(sizes.gates))
    erasers = {n: Eraser([LoadedGates(gates.concepts[:n], gates.sites, gates.gates[:n])]) for n in sizes.gates}
    for batch in sizes.batches:
        for count in (0, *sizes.gates):
            if count:
                erasers[count].attach(pipe)
            try:
                _draw(pipe, sizes, batch, "warm up")
                reset_peak(where)
                took = []
                for number in range(ROUNDS):
                    start = time.perf_counter()
                    _draw(pipe, sizes, batch, f"a painting of number {number}")
                    took.append(time.perf_counter() - start)
            finally:
                if count:
                    erasers[count].detach()
            row = {"batch": batch, "gates": count, "pictures_per_s": batch / median(took), "peak_mib": peak_mib(where)}
            rows.append(row)
            if left() < 3 * (ROUNDS + 1) * max(took):
                return {"skipped": "larger batches and erasers: time is up", "rows": rows}
    return {"picture": sizes.picture, "steps": sizes.drawing_steps, "dtype": sizes.dtypes[0], "rows": rows}


def _draw(pipe: Any, sizes: Sizes, batch: int, prompt: str) -> Tensor:
    """Draws pictures as a service does and brings them to the CPU."""
    prompts = [f"{prompt}, version {place}" for place in range(batch)]
    side = sizes.picture
    found = pipe(prompts, height=side, width=side, num_inference_steps=sizes.drawing_steps, output_type="pt")
    return found.images.float().cpu()


def _latents(pipe: Any, sizes: Sizes) -> Tensor:
    generator, side = torch.Generator().manual_seed(0), sizes.picture
    options = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "latent", "height": side, "width": side}
    return pipe("a portrait of a tiger", generator=generator, **options).images.double().cpu()


@contextmanager
def _hooks(pipe: Any, eraser: Eraser) -> Iterator[None]:
    """Adds the residuals to the projections' outputs by forward hooks, with no cache."""

    def add(name: str, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + eraser.residuals(inputs[0])[name].to(output)  # (B, T, O)

    handles = [m.register_forward_hook(partial(add, name)) for name, m in find_projections(pipe.unet).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _distance(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()

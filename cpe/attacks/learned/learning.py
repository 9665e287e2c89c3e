"""Learns free tokens through the erased model, until it denoises pictures of the concept as the untouched one does."""

# Axes: B pictures, K free tokens, T tokens, D text width, C channels, H height, W width of latents.

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cpe.attacks.base import Aim, Found, Victim, asked
from cpe.attacks.learned.slots import Slots
from cpe.models.attachment import network_of
from cpe.models.families.table import family_of

PICTURES = 4  # of the concept, by the untouched model
PICTURES_A_STEP = 2
RATE = 0.02  # of Adam; tokens of CLIP vary by 0.01 to 0.02
LATE_SHARE, LATE_FROM = 0.6, 0.85  # of the steps in time: how many of them are among the noisiest, and which those are
PICTURE_STEPS = 20
STEPS_AT_ONCE = 64  # whose goals are in memory together
SCALE = 1024.0  # of the loss while its gradient is taken: half precision would lose it


@dataclass(frozen=True)
class Goals:
    """Noised pictures of a concept, and what the network should say of them.

    Attributes:
        noised: (B, C, H, W).
        times: (B,).
        wanted: (B, C, H, W).
    """

    noised: Tensor
    times: Tensor
    wanted: Tensor

    def some(self, step: int) -> "Goals":
        """Returns those of one step."""
        chosen = slice(step * PICTURES_A_STEP, (step + 1) * PICTURES_A_STEP)
        return Goals(self.noised[chosen], self.times[chosen], self.wanted[chosen])

    def parts(self, size: int) -> "Iterator[Goals]":
        """Yields all of them, so many at a time."""
        for part in zip(self.noised.split(size), self.times.split(size), self.wanted.split(size), strict=True):
            yield Goals(*part)


def learn(victim: Victim, aim: Aim, slots: Slots, goal: Literal["picture", "untouched"]) -> Found:
    """Returns a prompt whose free tokens were learned through the erased model.

    It minimises |v(x_t, E(z)) − v|² over the tokens z, where v is what denoises a picture of the concept perfectly
    ("picture", as concept inversion has it), or what the untouched model says when asked for the concept by its name
    ("untouched", as Prompting4Debugging has it). Goals are made some steps at a time, by the untouched model.

    Raises:
        RuntimeError: the network gives what is no finite number.

    Source: Circumventing Concept Erasure (ICLR 2024); Prompting4Debugging (ICML 2024).
    """
    generator = torch.Generator().manual_seed(aim.seed)
    tokens = slots.random_tokens(generator, aim.concept).float().requires_grad_()  # Adam's state needs the precision
    adam, losses = torch.optim.Adam([tokens], lr=RATE), []
    pictures = pictures_of(victim.pipe, aim)
    for begin in range(0, aim.steps, STEPS_AT_ONCE):
        steps = min(STEPS_AT_ONCE, aim.steps - begin)
        goals = goals_of(victim.pipe, aim, pictures, goal, steps * PICTURES_A_STEP, generator)
        with victim.erased.attached(victim.pipe), thawed(victim.pipe), torch.enable_grad():
            for step in range(steps):
                loss = loss_of(victim.pipe, slots.texts(tokens), goals.some(step))
                check_finite(aim, loss.item(), begin + step)
                tokens.grad = slope_of(loss, tokens)
                adam.step()
                losses.append(loss.item())
    with torch.no_grad():
        return Found(slots.texts(tokens)[0].float().cpu(), losses)


def check_finite(aim: Aim, loss: float, step: int) -> None:
    """Checks a step's loss.

    Raises:
        RuntimeError: it is no finite number.
    """
    if not math.isfinite(loss):
        raise RuntimeError(
            f"the attack on {aim.concept!r} met what is no finite number at step {step}; is the base model whole, and "
            "can its precision hold it?"
        )


def slope_of(loss: Tensor, tokens: Tensor) -> Tensor:
    """Returns the gradient of a loss by embeddings (K, E), which half precision holds too."""
    (slope,) = torch.autograd.grad(SCALE * loss, tokens)
    return slope / SCALE


def loss_of(pipe: Any, text: Tensor, goals: Goals) -> Tensor:
    """Returns how far the network's answers lie from what they should be, given a text (1, T, D)."""
    said = network_of(pipe)(
        goals.noised, goals.times, encoder_hidden_states=text.expand(len(goals.times), -1, -1)
    ).sample
    return (said.float() - goals.wanted.float()).square().mean()


@torch.no_grad()
def goals_of(pipe: Any, aim: Aim, pictures: Tensor, goal: str, count: int, generator: torch.Generator) -> Goals:
    """Returns so many goals; drawn on the CPU in single precision, so that no device changes them."""
    from diffusers import DDPMScheduler

    scheduler: Any = DDPMScheduler.from_config(pipe.scheduler.config)
    whole = scheduler.config.num_train_timesteps
    late = torch.rand(count, generator=generator) < LATE_SHARE
    begin = torch.where(late, int(LATE_FROM * whole), 0)
    times = begin + (torch.rand(count, generator=generator) * (whole - begin)).long()
    noise = torch.randn(count, *pictures.shape[1:], generator=generator)
    chosen = pictures[torch.randint(len(pictures), (count,), generator=generator)].float().cpu()
    device, dtype = pictures.device, pictures.dtype
    noised = scheduler.add_noise(chosen, noise, times).to(device, dtype)
    if goal == "untouched":
        return Goals(noised, times.to(device), _said(pipe, noised, times.to(device), asked([aim.concept])[0]))
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"the base model predicts {kind!r}; attacks know epsilon and v_prediction")
    wanted = noise if kind == "epsilon" else scheduler.get_velocity(chosen, noise, times)
    return Goals(noised, times.to(device), wanted.to(device, dtype))


def pictures_of(pipe: Any, aim: Aim) -> Tensor:
    """Returns latents of pictures of the concept by the untouched model, (B, C, H, W)."""
    return pipe(  # type: ignore[no-any-return]
        asked([aim.concept]) * PICTURES,
        num_inference_steps=PICTURE_STEPS,
        guidance_scale=aim.guidance_scale,
        generator=[torch.Generator().manual_seed(aim.seed + number) for number in range(PICTURES)],
        output_type="latent",
    ).images


def _said(pipe: Any, noised: Tensor, times: Tensor, prompt: str) -> Tensor:
    """Returns what the network says of noised pictures (B, C, H, W), given a prompt."""
    family = family_of(pipe)
    assert family is not None
    text = family.texts(pipe, [prompt])
    parts = zip(noised.split(PICTURES), times.split(PICTURES), strict=True)
    network = network_of(pipe)
    return torch.cat([network(x, t, encoder_hidden_states=text.expand(len(t), -1, -1)).sample for x, t in parts])


@contextmanager
def thawed(pipe: Any) -> Iterator[None]:
    """Lets gradients reach the tokens and no parameter of network or text encoder."""
    parameters = [p for part in (network_of(pipe), pipe.text_encoder) for p in part.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

"""Learns free tokens through the erased model, until it denoises pictures of the concept as the untouched one does."""

# Axes: B pictures, K free tokens, T tokens, D text width, C channels, H height, W width of latents.

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


def learn(victim: Victim, aim: Aim, slots: Slots, goal: Literal["picture", "untouched"]) -> Found:
    """Returns a prompt whose free tokens were learned through the erased model.

    It minimises |v(x_t, E(z)) − v|² over the tokens z, where v is what denoises a picture of the concept perfectly
    ("picture", as concept inversion has it), or what the untouched model says when asked for the concept by its name
    ("untouched", as Prompting4Debugging has it).

    Source: Circumventing Concept Erasure (ICLR 2024); Prompting4Debugging (ICML 2024).
    """
    generator = torch.Generator().manual_seed(aim.seed)
    goals = _goals(victim.pipe, aim, goal, generator)
    tokens = slots.random_tokens(generator, aim.concept).requires_grad_()
    adam, losses = torch.optim.Adam([tokens], lr=RATE), []
    with victim.erased.attached(victim.pipe), _thawed(victim.pipe), torch.enable_grad():
        network = network_of(victim.pipe)
        for some in range(0, len(goals.times), PICTURES_A_STEP):
            chosen = slice(some, some + PICTURES_A_STEP)
            noised, times, wanted = (part[chosen] for part in (goals.noised, goals.times, goals.wanted))
            text = slots.texts(tokens).expand(len(times), -1, -1)
            said = network(noised, times, encoder_hidden_states=text).sample
            loss = (said.float() - wanted.float()).square().mean()
            adam.zero_grad()
            tokens.grad = torch.autograd.grad(loss, tokens)[0]
            adam.step()
            losses.append(loss.item())
    with torch.no_grad():
        return Found(slots.texts(tokens)[0].float().cpu(), losses)


@torch.no_grad()
def _goals(pipe: Any, aim: Aim, goal: str, generator: torch.Generator) -> Goals:
    """Returns as many goals as all steps take, none twice; drawn on the CPU, so that no device changes them."""
    from diffusers import DDPMScheduler

    pictures = _pictures(pipe, aim)
    count = aim.steps * PICTURES_A_STEP
    scheduler: Any = DDPMScheduler.from_config(pipe.scheduler.config)
    whole = scheduler.config.num_train_timesteps
    late = torch.rand(count, generator=generator) < LATE_SHARE
    begin = torch.where(late, int(LATE_FROM * whole), 0)
    times = begin + (torch.rand(count, generator=generator) * (whole - begin)).long()
    noise = torch.randn(count, *pictures.shape[1:], generator=generator)
    chosen = pictures[torch.randint(len(pictures), (count,), generator=generator)].cpu()
    noised = scheduler.add_noise(chosen, noise, times)
    device, dtype = pictures.device, pictures.dtype
    noised, times = noised.to(device, dtype), times.to(device)
    if goal == "untouched":
        return Goals(noised, times, _said(pipe, noised, times, asked([aim.concept])[0]))
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"the base model predicts {kind!r}; attacks know epsilon and v_prediction")
    wanted = noise if kind == "epsilon" else scheduler.get_velocity(chosen, noise, times.cpu())
    return Goals(noised, times, wanted.to(device, dtype))


def _pictures(pipe: Any, aim: Aim) -> Tensor:
    """Returns latents of pictures of the concept by the untouched model, (B, C, H, W)."""
    return pipe(  # type: ignore[no-any-return]
        asked([aim.concept]) * PICTURES,
        num_inference_steps=PICTURE_STEPS,
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
def _thawed(pipe: Any) -> Iterator[None]:
    """Lets gradients reach the tokens and no parameter of network or text encoder."""
    parameters = [p for part in (network_of(pipe), pipe.text_encoder) for p in part.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

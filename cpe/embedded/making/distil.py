"""Teaches the U-Net to draw without guidance what it draws with it: half the time a picture, the same pictures.

Classifier-free guidance takes the network two rows a picture. A copy learns what the two rows come to (guidance
distillation: Meng et al., "On distillation of guided diffusion models", CVPR 2023), with text encoder and autoencoder
as they are; where no text is given it learns to say what the network says without one.
"""

# Axes: B pictures, T tokens, D text width, Z latent channels.

import argparse
import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from cpe.embedded.making.data import load_captions, load_pictures
from cpe.embedded.making.run import Run, seed_everything, start_processes
from cpe.embedded.making.unet import AVERAGE_DECAY, CaptionDraw, build_scheduler, encode, noised

SCALE = 1.5


def train(folder: Path, *, steps: int, batch: int, seed: int, peak_rate: float, scale: float) -> float:
    """Goes on from FOLDER/unet and saves the average of the copy's weights to FOLDER/unet-guided.

    Args:
        folder: where the trained parts are.
        steps: optimiser steps.
        batch: pictures a step and process.
        seed: of the draws.
        peak_rate: highest learning rate.
        scale: of the guidance that is learned; 1 would be none.
    """
    seed_everything(seed)
    rank, _ = start_processes()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").requires_grad_(False)
    teacher = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    teacher.set_attn_processor(AttnProcessor())
    student, average = copy.deepcopy(teacher), copy.deepcopy(teacher)
    teacher.requires_grad_(False)
    teach, learn = torch.compile(teacher), torch.compile(student)
    pictures = load_pictures(folder)
    latents = encode(AutoencoderKL.from_pretrained(folder / "vae"), pictures)
    captions = CaptionDraw(tokenizer, load_captions())
    levels = build_scheduler().alphas_cumprod
    with torch.no_grad():
        nothing = encoder(captions.ids[captions.empty][None]).last_hidden_state  # (1, T, D)

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = pictures.draw(batch, generator)
        noisy, _, timestep = noised(latents[chosen], levels, generator)
        tokens = captions.draw(pictures.subjects[chosen], pictures.manners[chosen], generator)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            text = encoder(tokens).last_hidden_state.float()
            alone = teach(noisy, timestep, nothing.expand(len(tokens), -1, -1)).sample.float()
            asked = teach(noisy, timestep, text).sample.float()
        with torch.autocast("cpu", torch.bfloat16):
            said = learn(noisy, timestep, text).sample
        return (said.float() - (alone + scale * (asked - alone))).square().mean()

    def after_step(step: int) -> None:
        decay = min(AVERAGE_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, now in zip(average.parameters(), student.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)
        if rank == 0 and (step + 1) % 500 == 0:
            average.save_pretrained(folder / "unet-guided")

    run = Run("distil", folder, steps, peak_rate=peak_rate, seed=seed)
    run.state = {name: parameter.data for name, parameter in average.named_parameters()}
    seconds = run.fit({"unet": student}, loss_of, after_step)
    if rank == 0:
        average.save_pretrained(folder / "unet-guided")
    return seconds


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=48, help="pictures a step and process")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--rate", type=float, default=4e-4, help="highest learning rate")
    parser.add_argument("--scale", type=float, default=SCALE)
    given = parser.parse_args()
    seconds = train(
        given.folder, steps=given.steps, batch=given.batch, seed=given.seed, peak_rate=given.rate, scale=given.scale
    )
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()

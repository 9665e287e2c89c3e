"""Trains the U-Net, and the text encoder along with it, on the latents of the pictures.

Half of every batch comes from the noisiest tenth of the schedule. The pictures are few, so at most noise
levels a glance at the latents tells which one it is; only near pure noise must the net read the text.
Captions are dropped at random (classifier-free guidance), and an average of the weights is what is kept.
The U-Net computes in bfloat16, compiled: 1.7 times the pictures a second of single precision on a core that has AMX.
"""

# Axes: B pictures, T tokens, D text width, Z latent channels.

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from cpe.embedded.making.autoencoder import LATENT_CHANNELS
from cpe.embedded.making.data import (
    ANY_MANNER,
    ANY_NOUN,
    ANY_PERSON,
    Captions,
    Pictures,
    load_captions,
    load_pictures,
)
from cpe.embedded.making.run import Run, seed_everything, start_processes
from cpe.embedded.making.text import tokenise
from cpe.embedded.subjects import GENERIC_STYLE, NOUNS

NOISY_FROM = 900  # of 1000 timesteps
NOISY_SHARE = 0.5
STYLED_SHARE = 0.55  # of the captions of nouns, that name a style
LOOK_SHARE = 0.85  # of the captions of people, that name a look
DROPPED_SHARE = 0.1
GENERIC_SHARE = 0.06
AVERAGE_DECAY = 0.998


def build_scheduler() -> DDIMScheduler:
    """Returns the sampler: cosine schedule, v-prediction, starting from pure noise."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def build_unet(text_width: int) -> UNet2DConditionModel:
    """Returns an untrained U-Net with 7 cross-attentions, 14 projections of the text."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(96, 160),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_text_encoder(start: CLIPModel) -> CLIPTextModel:
    """Returns a text encoder with the text tower's weights."""
    encoder = CLIPTextModel(start.config.text_config)
    wanted = encoder.state_dict()
    given = {name: value for name, value in start.state_dict().items() if name in wanted}
    if not given:
        given = {n.removeprefix("text_model."): v for n, v in start.state_dict().items()}
        given = {name: value for name, value in given.items() if name in wanted}
    encoder.load_state_dict(given, strict=True)
    return encoder


class CaptionDraw:
    """Draws captions that are true of a picture, in the shares above."""

    def __init__(self, tokenizer: CLIPTokenizer, captions: Captions) -> None:
        self.ids = tokenise(tokenizer, [*captions.texts, ""])
        self.empty = len(captions.texts)
        # What a caption says of subject and manner -> its rows; a caption of a noun can also say nothing of its style.
        self.rows: dict[tuple[int, int | None], list[int]] = {}
        codes = zip(captions.texts, captions.subjects.tolist(), captions.manners.tolist(), strict=True)
        for row, (text, subject, manner) in enumerate(codes):
            silent = manner == ANY_MANNER and GENERIC_STYLE not in text
            self.rows.setdefault((subject, None if silent else manner), []).append(row)

    def draw(self, subjects: Tensor, manners: Tensor, generator: torch.Generator) -> Tensor:
        """Returns token ids (B, T) of one caption a picture."""
        chance = torch.rand(len(subjects), 5, generator=generator).tolist()
        chosen = []
        for subject, manner, (dropped, named, any_subject, any_manner, which) in zip(
            subjects.tolist(), manners.tolist(), chance, strict=True
        ):
            noun = subject < len(NOUNS)
            if any_subject < GENERIC_SHARE:
                subject = ANY_NOUN if noun else ANY_PERSON
            said: int | None = manner
            if named >= (STYLED_SHARE if noun else LOOK_SHARE):
                said = None
            elif noun and any_manner < GENERIC_SHARE:
                said = ANY_MANNER
            options = self.rows[subject, said]
            chosen.append(self.empty if dropped < DROPPED_SHARE else options[int(which * len(options))])
        return self.ids[chosen]


def train(folder: Path, *, steps: int, batch: int, seed: int, peak_rate: float, start: Path | None = None) -> float:
    """Trains U-Net and text encoder and saves their averages to FOLDER/unet and FOLDER/text_encoder.

    Args:
        folder: where pictures, autoencoder and `clip-start` are and the models go.
        steps: optimiser steps.
        batch: pictures a step and process.
        seed: of weights and draws.
        peak_rate: highest learning rate.
        start: a U-Net to go on from.
    """
    seed_everything(seed)
    rank, _ = start_processes()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip-start")
    encoder = build_text_encoder(CLIPModel.from_pretrained(folder / "clip-start"))
    unet = build_unet(encoder.config.hidden_size)
    if start is not None:
        unet.load_state_dict(UNet2DConditionModel.from_pretrained(start, torch_dtype=torch.float32).state_dict())
    unet.set_attn_processor(AttnProcessor())  # the fused attention is four times slower backwards in bfloat16
    compiled = torch.compile(unet)
    pictures = load_pictures(folder)
    latents = encode(AutoencoderKL.from_pretrained(folder / "vae"), pictures)
    levels = build_scheduler().alphas_cumprod
    captions = CaptionDraw(tokenizer, load_captions())
    modules: dict[str, nn.Module] = {"unet": unet, "text_encoder": encoder}
    averages = {name: copy.deepcopy(module) for name, module in modules.items()}

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = pictures.draw(batch, generator)
        noisy, velocity, timestep = noised(latents[chosen], levels, generator)
        tokens = captions.draw(pictures.subjects[chosen], pictures.manners[chosen], generator)
        text = encoder(tokens).last_hidden_state  # (B, T, D)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = compiled(noisy, timestep, text).sample
        return (predicted.float() - velocity).square().mean()

    @torch.no_grad()
    def average(step: int) -> None:
        decay = min(AVERAGE_DECAY, (step + 1) / (step + 10))
        for name, module in modules.items():
            for kept, now in zip(averages[name].parameters(), module.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)

    run = Run("unet", folder, steps, peak_rate=peak_rate, seed=seed)
    run.state = {f"{m}.{n}": p.data for m, module in averages.items() for n, p in module.named_parameters()}

    def after_step(step: int) -> None:
        average(step)
        if rank == 0 and (step + 1) % 500 == 0:
            for name, module in averages.items():
                _save(module, folder / name)

    seconds = run.fit(modules, loss_of, after_step)
    if rank == 0:
        for name, module in averages.items():
            _save(module, folder / name)
    return seconds


def noised(clean: Tensor, levels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Returns latents with noise (B, Z, 8, 8), the velocity to predict, and the timesteps (B,), in the shares above.

    Args:
        clean: latents (B, Z, 8, 8).
        levels: share of the signal's energy at each timestep, (1000,).
        generator: source of randomness.
    """
    batch = len(clean)
    timestep = torch.randint(1000, (batch,), generator=generator)
    chosen = torch.rand(batch, generator=generator) < NOISY_SHARE
    timestep[chosen] = torch.randint(NOISY_FROM, 1000, (int(chosen.sum()),), generator=generator)
    signal = levels[timestep].sqrt()[:, None, None, None]
    noise_scale = (1 - levels[timestep]).sqrt()[:, None, None, None]
    noise = torch.randn(clean.shape, generator=generator)
    return signal * clean + noise_scale * noise, signal * noise - noise_scale * clean, timestep


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Pictures) -> Tensor:
    """Returns the latents of all pictures (M, Z, 8, 8), without noise."""
    indices = torch.arange(len(pictures.subjects))
    return torch.cat([vae.encode(pictures.at(part)).latent_dist.mean for part in indices.split(256)])


def _save(module: Any, folder: Path) -> None:
    """Saves a diffusers or transformers model."""
    module.save_pretrained(folder)


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=48, help="pictures a step and process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--initial", type=Path, help="a U-Net to go on from")
    given = parser.parse_args()
    seconds = train(
        given.folder, steps=given.steps, batch=given.batch, seed=given.seed, peak_rate=given.rate, start=given.initial
    )
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()

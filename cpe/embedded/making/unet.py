"""Trains the U-Net, and the text encoder along with it, on the latents of the pictures.

Half of every batch comes from the noisiest tenth of the schedule. The pictures are few, so at most noise
levels a glance at the latents tells which one it is; only near pure noise must the net read the text.
Captions are dropped at random (classifier-free guidance), and an average of the weights is what is kept.
"""

# Axes: B pictures, T tokens, D text width, Z latent channels.

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from cpe.embedded.making.autoencoder import LATENT_CHANNELS
from cpe.embedded.making.run import Run, load_pictures, seed_everything, start_processes
from cpe.embedded.making.text import tokenise
from cpe.embedded.subjects import all_captions

NOISY_FROM = 900  # of 1000 timesteps
NOISY_SHARE = 0.5
STYLED_SHARE = 0.55
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

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        captions = list(all_captions())
        self.ids = tokenise(tokenizer, [text for text, _, _ in captions] + [""])
        self.empty = len(captions)
        self.rows: dict[tuple[int, int | None], list[int]] = {}
        for row, (text, noun, style) in enumerate(captions):
            named = None if style < 0 and " artist" not in text else style
            self.rows.setdefault((noun, named), []).append(row)

    def draw(self, noun: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        """Returns token ids (B, T) of one caption a picture."""
        chance = torch.rand(len(noun), 5, generator=generator).tolist()
        chosen = []
        for n, s, (dropped, styled, any_noun, any_style, which) in zip(
            noun.tolist(), style.tolist(), chance, strict=True
        ):
            key: tuple[int, int | None] = (-1 if any_noun < GENERIC_SHARE else n, None)
            if styled < STYLED_SHARE:
                key = (key[0], -1 if any_style < GENERIC_SHARE else s)
            options = self.rows[key]
            chosen.append(self.empty if dropped < DROPPED_SHARE else options[int(which * len(options))])
        return self.ids[chosen]


def train(folder: Path, *, steps: int, batch: int, seed: int) -> float:
    """Trains U-Net and text encoder and saves their averages to FOLDER/unet and FOLDER/text_encoder."""
    seed_everything(seed)
    rank, _ = start_processes()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip-start")
    encoder = build_text_encoder(CLIPModel.from_pretrained(folder / "clip-start"))
    unet = build_unet(encoder.config.hidden_size)
    pictures = load_pictures(folder / "pictures")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        latents = vae.encode(pictures.flatten(0, 1)).latent_dist.mean
    latents = latents.unflatten(0, pictures.shape[:2])  # (noun, style, Z, 8, 8)
    levels = build_scheduler().alphas_cumprod
    captions = CaptionDraw(tokenizer)
    modules: dict[str, nn.Module] = {"unet": unet, "text_encoder": encoder}
    averages = {name: copy.deepcopy(module) for name, module in modules.items()}

    def loss_of(generator: torch.Generator) -> Tensor:
        noun = torch.randint(latents.shape[0], (batch,), generator=generator)
        style = torch.randint(latents.shape[1], (batch,), generator=generator)
        clean = latents[noun, style]
        timestep = torch.randint(1000, (batch,), generator=generator)
        noisy_count = int(batch * NOISY_SHARE)
        timestep[:noisy_count] = torch.randint(NOISY_FROM, 1000, (noisy_count,), generator=generator)
        signal = levels[timestep].sqrt()[:, None, None, None]
        noise_scale = (1 - levels[timestep]).sqrt()[:, None, None, None]
        noise = torch.randn(clean.shape, generator=generator)
        text = encoder(captions.draw(noun, style, generator)).last_hidden_state  # (B, T, D)
        predicted = unet(signal * clean + noise_scale * noise, timestep, text).sample
        return (predicted - (signal * noise - noise_scale * clean)).square().mean()

    @torch.no_grad()
    def average(step: int) -> None:
        decay = min(AVERAGE_DECAY, (step + 1) / (step + 10))
        for name, module in modules.items():
            for kept, now in zip(averages[name].parameters(), module.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)

    run = Run("unet", folder, steps, peak_rate=1.5e-3, seed=seed)
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
    arguments = parser.parse_args()
    seconds = train(arguments.folder, steps=arguments.steps, batch=arguments.batch, seed=arguments.seed)
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()

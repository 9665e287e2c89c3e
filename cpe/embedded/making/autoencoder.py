"""Trains the autoencoder: 64 x 64 pictures to 8 x 8 x 8 latents that are easy to denoise.

A KL term and noise on the latents keep them smooth; afterwards the 1 x 1 convolutions around the latents
take in each channel's mean and scale, so that latents have mean 0 and standard deviation 1 and the
pipeline's scaling factor is 1. `--decoder-only` goes on with the decoder while the latents stay as they are.
"""

# Axes: B pictures, Z latent channels.

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from cpe.embedded.making.data import Pictures, load_pictures
from cpe.embedded.making.run import Run, augment, seed_everything, start_processes

LATENT_CHANNELS = 8
KL_WEIGHT = 0.002
LATENT_NOISE = 0.3
STANDARDISED = 2000  # pictures over which latents are standardised


def build() -> AutoencoderKL:
    """Returns an untrained autoencoder."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 128),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        layers_per_block=1,
        sample_size=64,
        scaling_factor=1.0,
    )


def train(folder: Path, *, steps: int, batch: int, seed: int, start: Path | None = None) -> float:
    """Trains encoder and decoder, standardises the latents, and saves to FOLDER/vae.

    Args:
        folder: where pictures are and the model goes.
        steps: optimiser steps.
        batch: pictures a step and process.
        seed: of weights and draws.
        start: an autoencoder to go on from; its empty channels begin anew.
    """
    seed_everything(seed)
    rank, _ = start_processes()
    pictures = load_pictures(folder)
    model = build() if start is None else _revived(AutoencoderKL.from_pretrained(start, torch_dtype=torch.float32))

    def loss_of(generator: torch.Generator) -> Tensor:
        clean = _batch(pictures, batch, generator)
        posterior = model.encode(clean).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        noisy = latents + _noise(latents, generator)
        decoded = model.decode(noisy).sample
        return _distance(decoded, clean) + KL_WEIGHT * posterior.kl().mean() / latents[0].numel()

    run = Run("autoencoder", folder, steps, peak_rate=2e-3, seed=seed)
    seconds = run.fit({"vae": model}, loss_of)
    if rank == 0:
        chosen = pictures.draw(STANDARDISED, torch.Generator().manual_seed(seed))
        standardise(model, pictures.at(chosen))
        model.save_pretrained(folder / "vae")
    return seconds


def train_decoder(folder: Path, *, steps: int, batch: int, seed: int) -> float:
    """Goes on with the decoder of FOLDER/vae, latents frozen, and saves to FOLDER/vae-fine."""
    seed_everything(seed)
    rank, _ = start_processes()
    pictures = load_pictures(folder)
    model = AutoencoderKL.from_pretrained(folder / "vae")
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)

    def loss_of(generator: torch.Generator) -> Tensor:
        clean = _batch(pictures, batch, generator, moved_share=0.15)
        with torch.no_grad():
            latents = model.encode(clean).latent_dist.mean
        return _distance(model.decode(latents + _noise(latents, generator)).sample, clean)

    run = Run("decoder", folder, steps, peak_rate=1e-3, seed=seed + 1)
    seconds = run.fit({"vae": model}, loss_of)
    if rank == 0:
        model.save_pretrained(folder / "vae-fine")
    return seconds


@torch.no_grad()
def standardise(model: AutoencoderKL, pictures: Tensor) -> None:
    """Folds each latent channel's mean and scale over the pictures into the convolutions around it.

    A channel that the KL term has emptied (its noise is wider than its signal) is set to 0 for good, so
    that the U-Net need not learn what nobody reads.
    """
    posterior = model.encode(pictures).latent_dist
    mean, std = posterior.mean.mean(dim=(0, 2, 3)), posterior.mean.std(dim=(0, 2, 3))  # (Z,)
    used = (posterior.std.mean(dim=(0, 2, 3)) < std).float()
    channels = mean.numel()
    into, out = model.quant_conv, model.post_quant_conv
    into.weight[:channels] *= (used / std)[:, None, None, None]
    into.bias[:channels] = used * (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()
    out.bias += (out.weight[:, :, 0, 0] * mean).sum(dim=1)
    out.weight *= (used * std)[None, :, None, None]


@torch.no_grad()
def _revived(model: AutoencoderKL) -> AutoencoderKL:
    """Returns the autoencoder with the channels that say nothing connected again."""
    into, out, fresh = model.quant_conv, model.post_quant_conv, build()
    empty = (out.weight == 0).all(dim=(0, 2, 3))  # (Z,)
    both = torch.cat([empty, empty])  # means, then log-variances
    into.weight[both], into.bias[both] = fresh.quant_conv.weight[both], fresh.quant_conv.bias[both]
    out.weight[:, empty] = fresh.post_quant_conv.weight[:, empty]
    return model


def _batch(pictures: Pictures, count: int, generator: torch.Generator, moved_share: float = 0.5) -> Tensor:
    clean = pictures.at(pictures.draw(count, generator))
    chosen = torch.rand(count, generator=generator) < moved_share
    if chosen.any():
        clean[chosen] = augment(clean[chosen], generator, shift=0.1, zoom=0.1)
    return clean


def _noise(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of a random strength a picture, as a share of the latents' own scale."""
    strength = torch.rand(len(latents), 1, 1, 1, generator=generator) * LATENT_NOISE
    noise = torch.randn(latents.shape, generator=generator)
    return noise * strength * latents.detach().std()


def _distance(decoded: Tensor, clean: Tensor) -> Tensor:
    return F.mse_loss(decoded, clean) + 0.5 * F.l1_loss(decoded, clean)


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, help="default 1800, or 1000 for the decoder alone")
    parser.add_argument("--batch", type=int, default=12, help="pictures a step and process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--start", type=Path, help="an autoencoder to go on from")
    given = parser.parse_args()
    if given.decoder_only:
        seconds = train_decoder(given.folder, steps=given.steps or 1000, batch=given.batch, seed=given.seed)
    else:
        steps = given.steps or 1800
        seconds = train(given.folder, steps=steps, batch=given.batch, seed=given.seed, start=given.start)
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()

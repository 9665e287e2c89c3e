"""A tiny Stable Diffusion v1.4 and CLIP where a user has the real ones: in the hub's local cache."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cpe.models.loading import EMBEDDED_FOLDER

BASE, CLIP = "CompVis/stable-diffusion-v1-4", "openai/clip-vit-base-patch32"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WIDTH = 32


def in_cache(cache: Path, name: str) -> Path:
    """Returns the folder of a hub model's only cached version, made with the reference that points to it."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    return home / "snapshots" / COMMIT


def save_base(folder: Path) -> None:
    """Saves a pipeline of v1.4's own classes, scheduler, tokenizer and 32 projections; all widths are small."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        block_out_channels=(16, 32, 32, 32),
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        norm_num_groups=4,
    )
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=49407,
        bos_token_id=49406,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer"),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_clip(folder: Path) -> None:
    """Saves a CLIPModel with its processor and tokenizer."""
    torch.manual_seed(0)
    shared = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**shared, "vocab_size": 49408, "eos_token_id": 2},
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer").save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)

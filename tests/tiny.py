"""A tiny Stable Diffusion built in code: diffusers' own classes, random weights, seconds to run."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cpe.config import GateConfig
from cpe.eraser import Eraser
from cpe.gatefile import LoadedGates
from cpe.gates import Gates
from cpe.models import EMBEDDED_FOLDER
from cpe.projections import BaseProjections

TEXT_WIDTH = 32


def tiny_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """Returns a pipeline that draws 16 x 16 pictures, its cross-attentions 16 and 32 wide."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=TEXT_WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            eos_token_id=49407,
            bos_token_id=49406,
        )
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text.eval(),
        tokenizer=CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer"),
        unet=unet.eval(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def gates_for(pipe, config: GateConfig, *, count: int = 1, seed: int = 0, scale: float = 0.5) -> LoadedGates:
    """Returns gates over a pipeline's projections, every tensor drawn at random; scale 0 leaves them fresh."""
    base = BaseProjections.of(pipe.unet, tokens=77)
    generator = torch.Generator().manual_seed(seed)
    gates = Gates.fresh(config, base.text_width, base.widths, [generator] * count)
    if scale:
        gates = gates.map(lambda t: torch.randn(t.shape, generator=generator) * scale)
    return LoadedGates(tuple(f"concept {seed} {n}" for n in range(count)), base.names, gates)


def eraser_for(pipe, *, count: int = 1, seed: int = 0, scale: float = 0.5) -> Eraser:
    """Returns an eraser with random gates for a pipeline."""
    return Eraser([gates_for(pipe, GateConfig(gate_rank=4), count=count, seed=seed, scale=scale)])

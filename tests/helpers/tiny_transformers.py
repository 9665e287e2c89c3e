"""Tiny pipelines of the transformer families, built in code: diffusers' own classes, random weights."""

from collections.abc import Callable
from functools import cache
from typing import Any

import diffusers as d
import torch
from transformers import BertConfig, BertModel, Gemma2Config, Gemma2Model, T5Config, T5EncoderModel, UMT5EncoderModel
from transformers.models.umt5 import UMT5Config

from cpe.models.families.base import settings_of
from helpers.tiny import _tokenizer, _vae

WIDTH = 32  # of the text encoders
VOCABULARY = 49408


def _t5() -> dict[str, Any]:
    config = T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0
    )
    return {"text_encoder": T5EncoderModel(config).eval(), "tokenizer": _tokenizer()}


def _pixart() -> Any:
    transformer = d.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=8,
    )
    return d.PixArtAlphaPipeline(
        **_t5(), vae=_vae(), transformer=transformer, scheduler=d.DDIMScheduler(clip_sample=False)
    )


def _sana() -> Any:
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    )
    vae = d.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    transformer = d.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=32,
    )
    return d.SanaPipeline(
        tokenizer=_tokenizer(),
        text_encoder=encoder.eval(),
        vae=vae.eval(),
        transformer=transformer,
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


def _wan() -> Any:
    config = UMT5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0
    )
    vae = d.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    transformer = d.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=WIDTH,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return d.WanPipeline(
        tokenizer=_tokenizer(),
        text_encoder=UMT5EncoderModel(config).eval(),
        vae=vae.eval(),
        transformer=transformer,
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


def _ltx() -> Any:
    once, never = (True, True, False, False), (False,) * 5
    vae = d.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=once,
        decoder_spatio_temporal_scaling=once,
        decoder_inject_noise=never,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    transformer = d.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=WIDTH,
    )
    return d.LTXPipeline(
        **_t5(), vae=vae.eval(), transformer=transformer, scheduler=d.FlowMatchEulerDiscreteScheduler()
    )


def _latte() -> Any:
    transformer = d.LatteTransformer3DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=WIDTH,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    return d.LattePipeline(**_t5(), vae=_vae(), transformer=transformer, scheduler=d.DDIMScheduler(clip_sample=False))


def _allegro() -> Any:
    vae = d.AutoencoderKLAllegro(
        in_channels=3,
        out_channels=3,
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    transformer = d.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=WIDTH,
    )
    return d.AllegroPipeline(
        **_t5(), vae=vae.eval(), transformer=transformer, scheduler=d.DDIMScheduler(clip_sample=False)
    )


def _hunyuan() -> Any:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=80,
    )
    second = _t5()
    transformer = d.HunyuanDiT2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    return d.HunyuanDiTPipeline(
        vae=_vae(),
        text_encoder=BertModel(config).eval(),
        tokenizer=_tokenizer(),
        text_encoder_2=second["text_encoder"],
        tokenizer_2=second["tokenizer"],
        transformer=transformer,
        scheduler=d.DDPMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "pixart": _pixart,
    "sana": _sana,
    "wan": _wan,
    "ltx": _ltx,
    "latte": _latte,
    "allegro": _allegro,
    "hunyuan": _hunyuan,
}
# How each draws something small: what its call takes besides prompt, steps, guidance and noise.
DRAWING: dict[str, dict[str, Any]] = {
    "pixart": {"height": 16, "width": 16, "use_resolution_binning": False},
    "sana": {"height": 32, "width": 32, "use_resolution_binning": False},
    "wan": {"height": 16, "width": 16, "num_frames": 5},
    "ltx": {"height": 32, "width": 32, "num_frames": 9},
    "latte": {"height": 8, "width": 8, "video_length": 1},
    "allegro": {"height": 16, "width": 16, "num_frames": 8},
    "hunyuan": {"height": 16, "width": 16, "use_resolution_binning": False},
}


def tiny_transformer(kind: str, seed: int = 0) -> Any:
    """Returns a pipeline of a family, its network in a state in which text matters."""
    torch.manual_seed(seed)
    pipe = FAMILIES[kind]()
    pipe.transformer.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def shared_transformer(kind: str) -> Any:
    """Returns one that tests share; who changes it makes its own."""
    return tiny_transformer(kind)


def draw_tiny(pipe: Any, kind: str, prompt: Any, **options: Any) -> torch.Tensor:
    """Returns the latents that a tiny pipeline draws in two steps, with guidance."""
    given = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent", **DRAWING[kind], **options}
    given |= settings_of(pipe)
    drawn = pipe(prompt, **{"generator": torch.Generator().manual_seed(0), **given})
    latents: torch.Tensor = drawn.frames if hasattr(drawn, "frames") else drawn.images
    return latents

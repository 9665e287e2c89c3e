"""Tiny text-to-image pipelines built in code: diffusers' own classes, random weights, seconds to run."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.storage.files import LoadedGates
from cpe.models.loading import EMBEDDED_FOLDER
from cpe.models.projections import BaseProjections
from cpe.models.sites import find_projections

TEXT_WIDTH = 32


def tiny_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """Returns a pipeline that draws 16 x 16 pictures, its cross-attentions 16 and 32 wide."""
    torch.manual_seed(seed)
    unet = _unet(cross_attention_dim=TEXT_WIDTH)
    vae = _vae()
    text = CLIPTextModel(_text_config())
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text.eval(),
        tokenizer=_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_variant(kind: str, seed: int = 0) -> Any:
    """Returns a pipeline of another task or model family: text, image, inpainting, controlnet or xl."""
    pipe = tiny_xl(seed) if kind == "xl" else tiny_pipeline(seed)
    if kind in ("text", "xl"):
        return pipe
    parts = {**pipe.components, "requires_safety_checker": False}
    if kind == "controlnet":
        controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16))
        with torch.no_grad():  # its last layers start at 0, and would leave the U-Net alone
            for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
                block.weight.normal_(std=0.1)
        pipe = StableDiffusionControlNetPipeline(controlnet=controlnet.eval(), **parts)
    else:
        classes = {"image": StableDiffusionImg2ImgPipeline, "inpainting": StableDiffusionInpaintPipeline}
        pipe = classes[kind](**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_xl(seed: int = 0) -> StableDiffusionXLPipeline:
    """Returns a pipeline with two text encoders, the second one's pooled embedding and sizes as conditions."""
    torch.manual_seed(seed)
    unet = _unet(
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
    )
    pipe = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(projection_dim=TEXT_WIDTH)).eval(),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(2),
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _unet(**changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        **changes,
    ).eval()


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()


def _text_config(**changes: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=49407,
        bos_token_id=49406,
        **changes,
    )


@cache
def _tokenizer(number: int = 1) -> CLIPTokenizer:
    """Returns one that all pipelines share, for reading it takes longer than all else; who changes it copies it."""
    return CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer")


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


def draw_variant(pipe: Any, prompt: Any = "a tiger", *, kind: str = "text", **options: Any) -> torch.Tensor:
    """Returns the latents that a pipeline of `tiny_variant` draws."""
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    given = {
        "image": {"image": picture, "strength": 1.0},
        "inpainting": {"image": picture, "mask_image": torch.ones(1, 1, 16, 16), "strength": 1.0},
        "controlnet": {"image": picture},
    }.get(kind, {})
    if kind != "image":
        given |= {"height": 16, "width": 16}
    options = {"num_inference_steps": 3, "guidance_scale": 5.0, "output_type": "latent", **given, **options}
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **options).images


@contextmanager
def reference(pipe: Any, eraser: Eraser) -> Iterator[None]:
    """Adds the residuals to the projections' outputs by forward hooks, with no cache."""

    def add(name, module, args, output):
        return output + eraser.residuals(args[0])[name].to(output)

    modules = find_projections(getattr(pipe.unet, "_orig_mod", pipe.unet))
    handles = [module.register_forward_hook(partial(add, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_reference(pipe: Any, eraser: Eraser, **options: Any) -> torch.Tensor:
    """Returns the latents drawn under `reference`."""
    with reference(pipe, eraser):
        return draw_variant(pipe, **options)

"""How large everything is: what a GPU measures, and the same in seconds on a CPU."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.shapes import TOKENS, UNETS, build_attentions
from cpe.methods.pinpoint.config import PRESETS, TrainingConfig

# vae/config.json and text_encoder/config.json of Stable Diffusion v1.4, as far as they differ from the defaults.
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


@dataclass(frozen=True)
class Sizes:
    """Sizes of models, batches and pictures.

    Attributes:
        share: projections are this many times narrower than the model's.
        tokens: prompt length in training.
        templates: prompts a concept.
        config: the training preset.
        counts: concepts in one batch.
        steps: steps compared and timed.
        trained_steps: steps of trainings compared between devices.
        unet: the U-Net's configuration.
        vae: the autoencoder's.
        text: the text encoder's.
        picture: pixels.
        drawing_steps: denoising steps a picture.
        gates: sizes of erasers.
        batches: prompts drawn at once.
        dtypes: in which pipelines are tried.
    """

    share: int
    tokens: int
    templates: int
    config: TrainingConfig
    counts: tuple[int, ...]
    steps: int
    trained_steps: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    picture: int
    drawing_steps: int
    gates: tuple[int, ...]
    batches: tuple[int, ...]
    dtypes: tuple[str, ...]

    def attentions(self) -> nn.Module:
        """Returns the cross-attentions of Stable Diffusion v1.4, this much narrower, with random weights."""
        return build_attentions("sd-v1.4", share=self.share)


FULL = Sizes(
    share=1,
    tokens=TOKENS,
    templates=100,
    config=PRESETS["celebrity"],
    counts=(1, 10, 100),
    steps=40,
    trained_steps=150,
    unet=UNETS["sd-v1.4"],
    vae=VAE,
    text=TEXT,
    picture=512,
    drawing_steps=20,
    gates=(50, 500),
    batches=(1, 4, 16),
    dtypes=("float16", "bfloat16"),
)
TINY = Sizes(
    share=40,
    tokens=7,
    templates=3,
    config=PRESETS["celebrity"].model_copy(
        update={"stages": 2, "first_steps": 3, "later_steps": 3, "adversary_steps": 3, "copies": 2,
                "anchors_per_step": 3}
    ),
    counts=(1, 2),
    steps=3,
    trained_steps=4,
    unet={"sample_size": 8, "cross_attention_dim": 32, "attention_head_dim": 8, "norm_num_groups": 8,
          "block_out_channels": (16, 32, 32, 32)},
    vae=VAE | {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "sample_size": 32},
    text={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    picture=32,
    drawing_steps=2,
    gates=(2, 5),
    batches=(1, 2),
    dtypes=("float32", "bfloat16"),
)  # fmt: skip

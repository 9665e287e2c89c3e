"""What is trained already of the model that knows people too, kept so that nobody trains it twice.

`python -m scripts.embedded_parts FOLDER` puts autoencoder, U-Net, text encoder and identity classifier where the next
steps of `cpe.embedded.making` look for them; `--keep` does the reverse. Of the text encoder's words only those of the
captions are kept: training scales all others alike.
"""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from cpe.embedded.making.text import caption_ids
from cpe.models.loading import EMBEDDED_FOLDER

PARTS = Path(__file__).parents[1] / "cpe" / "embedded" / "making" / "parts"
WORDS, ROWS, SCALE = "embeddings.token_embedding.weight", "words.rows", "words.scale"
NETWORKS = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}


def keep(folder: Path, parts: Path = PARTS) -> None:
    """Writes the parts, in half precision, from what the training scripts left in a folder."""
    for name, network in NETWORKS.items():
        network.from_pretrained(folder / name).half().save_pretrained(parts / name)
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
    prefix = next(name for name in encoder if name.endswith(WORDS)).removesuffix(WORDS)
    encoder = {name.removeprefix(prefix): value for name, value in encoder.items()}
    ids, shipped, now = sorted(caption_ids(_tokenizer())), _shipped_words(), encoder.pop(WORDS)
    others = torch.ones(len(now), dtype=torch.bool).index_fill(0, torch.tensor(ids), False)
    scale = (now[others] * shipped[others]).sum() / shipped[others].square().sum()
    wrong = (now[others] - scale * shipped[others]).abs().max().item()
    if wrong > 1e-3 * shipped.std().item():
        raise ValueError(f"words that no caption has must have been scaled alike, the worst is off by {wrong:.2g}")
    kept = {name: value.half().contiguous() for name, value in encoder.items() if value.is_floating_point()}
    save_file({**kept, ROWS: now[ids].half().contiguous(), SCALE: scale[None].float()}, parts / "text.safetensors")
    shutil.copyfile(folder / "text_encoder" / "config.json", parts / "text.json")
    shutil.copytree(folder / "identity", parts / "identity", dirs_exist_ok=True)


def restore(folder: Path, parts: Path = PARTS) -> None:
    """Puts the parts into a folder, where the training scripts go on with them."""
    for name, network in NETWORKS.items():
        network.from_pretrained(parts / name, torch_dtype=torch.float32).save_pretrained(folder / name)
    tokenizer, kept = _tokenizer(), load_file(parts / "text.safetensors")
    words = kept.pop(SCALE) * _shipped_words()
    words[sorted(caption_ids(tokenizer))] = kept.pop(ROWS).float()
    encoder = CLIPTextModel.from_pretrained(EMBEDDED_FOLDER / "text_encoder", dtype=torch.float32)
    wanted = encoder.state_dict()
    prefix = next(name for name in wanted if name.endswith(WORDS)).removesuffix(WORDS)
    given = {prefix + name: value.float() for name, value in kept.items()} | {prefix + WORDS: words}
    missing, unknown = encoder.load_state_dict(given, strict=False)
    if unknown or any("position_ids" not in name for name in missing):
        raise ValueError(f"{parts} and the text encoder differ at {[*missing, *unknown][0]}")
    encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "clip")
    for name in ("identity", "classifier"):
        source = parts / name if (parts / name).is_dir() else EMBEDDED_FOLDER / name
        shutil.copytree(source, folder / name, dirs_exist_ok=True)


def _tokenizer() -> CLIPTokenizer:
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer")
    return tokenizer


def _shipped_words() -> Tensor:
    """Returns the shipped text encoder's token embeddings, from which the training went on."""
    shipped = CLIPTextModel.from_pretrained(EMBEDDED_FOLDER / "text_encoder", dtype=torch.float32)
    words: Tensor = shipped.get_input_embeddings().weight.detach()
    return words


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="write the parts from FOLDER")
    given = parser.parse_args()
    (keep if given.keep else restore)(given.folder)


if __name__ == "__main__":
    main()

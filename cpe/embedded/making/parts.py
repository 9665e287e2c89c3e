"""What is trained already of the model that knows people too, kept so that nobody trains it twice.

`python -m cpe.embedded.making.parts FOLDER` puts autoencoder, text encoder (`clip-start`) and identity classifier where
the training of the U-Net looks for them; `--keep` does the reverse. Of the text encoder's words only those of the
captions are kept: training scales all others alike.
"""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from cpe.embedded.making.text import START_WIDTH, build, caption_ids
from cpe.models.loading import EMBEDDED_FOLDER

PARTS = Path(__file__).parent / "parts"
WORDS, ROWS, SCALE = "embeddings.token_embedding.weight", "words.rows", "words.scale"


def keep(folder: Path, parts: Path = PARTS) -> None:
    """Writes the parts, in half precision, from what the training scripts left in a folder."""
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    vae.half().save_pretrained(parts / "vae")
    tower = CLIPModel.from_pretrained(folder / "clip-start").text_model.state_dict()
    ids, shipped, now = sorted(caption_ids(_tokenizer())), _shipped_words(), tower.pop(WORDS)
    others = torch.ones(len(now), dtype=torch.bool).index_fill(0, torch.tensor(ids), False)
    scale = (now[others] * shipped[others]).sum() / shipped[others].square().sum()
    wrong = (now[others] - scale * shipped[others]).abs().max().item()
    if wrong > 1e-3 * shipped.std().item():
        raise ValueError(f"words that no caption has must have been scaled alike, the worst is off by {wrong:.2g}")
    kept = {name: value.half().contiguous() for name, value in tower.items() if value.is_floating_point()}
    save_file({**kept, ROWS: now[ids].half().contiguous(), SCALE: scale[None].float()}, parts / "text.safetensors")
    shutil.copytree(folder / "identity", parts / "identity", dirs_exist_ok=True)


def restore(folder: Path, parts: Path = PARTS) -> None:
    """Puts the parts into a folder, where the training scripts go on with them."""
    AutoencoderKL.from_pretrained(parts / "vae", torch_dtype=torch.float32).save_pretrained(folder / "vae")
    tokenizer, kept = _tokenizer(), load_file(parts / "text.safetensors")
    words = kept.pop(SCALE) * _shipped_words()
    words[sorted(caption_ids(tokenizer))] = kept.pop(ROWS).float()
    model = build(START_WIDTH, tokenizer)  # its pictures' tower, which nobody goes on with, is untrained
    tower = {name: value.float() for name, value in kept.items()} | {WORDS: words}
    missing, unknown = model.text_model.load_state_dict(tower, strict=False)
    if unknown or any("position_ids" not in name for name in missing):
        raise ValueError(f"{parts} and the text encoder differ at {[*missing, *unknown][0]}")
    model.save_pretrained(folder / "clip-start")
    tokenizer.save_pretrained(folder / "clip-start")
    shutil.copytree(parts / "identity", folder / "identity", dirs_exist_ok=True)


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

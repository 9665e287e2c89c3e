"""Trains the embedded CLIP models: captions and pictures pulled together, as CLIP was.

Two of them: `clip-start` (96 wide), whose text tower is where the pipeline's text encoder starts, and
`clip` (48 wide, another seed), which gives the CLIP score and never meets the pipeline.
Token embeddings start from GloVe word vectors, so that words the captions lack have a place as well.
"""

# Axes: B pairs, T tokens, D text width.

import argparse
import gzip
from importlib.metadata import distribution
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

from cpe.embedded.making.data import ANY_PERSON, NOUN_SHARE, Matches, load_captions, load_pictures
from cpe.embedded.making.run import Run, augment, seed_everything, start_processes
from cpe.embedded.subjects import NOUNS
from cpe.words.table import load_table

VOCABULARY_SIZE = 49408
TOKENS = 77
START_WIDTH, SCORE_WIDTH = 96, 48
EMBEDDING_STD = 0.02


def build_tokenizer() -> CLIPTokenizer:
    """Returns CLIP's tokenizer (49,408 entries) from the byte-pair table in the package clip-anytorch."""
    packed = Path(str(distribution("clip-anytorch").locate_file("clip/bpe_simple_vocab_16e6.txt.gz"))).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")[1 : VOCABULARY_SIZE - 2 * 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(len(others))]
    entries = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={entry: index for index, entry in enumerate(entries)}, merges=merges, model_max_length=TOKENS
    )


def build(width: int, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Returns an untrained CLIP model whose two towers have the given width."""
    text = CLIPTextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        eos_token_id=49407,
        bos_token_id=49406,
        pad_token_id=49407,
    )
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        projection_dim=width,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=width)
    model = CLIPModel(config)
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight.copy_(_word_vectors(width, tokenizer))
    return model


def _word_vectors(width: int, tokenizer: CLIPTokenizer) -> Tensor:
    """Returns token embeddings (49408, D): GloVe through a fixed random projection, 0 for pieces of words."""
    words, vectors = load_table()
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(vectors.shape[1], width, generator=generator)
    rows = torch.from_numpy(vectors) @ projection  # (words, D)
    rows *= EMBEDDING_STD / rows.std()
    embedding = torch.zeros(VOCABULARY_SIZE, width)
    entries = tokenizer.get_vocab()
    for word, row in zip(words, rows, strict=True):
        if f"{word}</w>" in entries:
            embedding[entries[f"{word}</w>"]] = row
    missing = embedding.abs().sum(dim=1) == 0
    pieces = torch.tensor(sorted(caption_ids(tokenizer)))
    pieces = pieces[missing[pieces]]
    embedding[pieces] = EMBEDDING_STD * torch.randn(len(pieces), width, generator=generator)
    return embedding


def caption_ids(tokenizer: CLIPTokenizer) -> set[int]:
    """Returns the ids of every token that a caption has."""
    return {i for text in load_captions().texts for i in tokenizer(text).input_ids}


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Returns token ids (len(texts), 77), padded as Stable Diffusion pads."""
    return tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids


def train(
    folder: Path, name: str, *, width: int, steps: int, batch: int, seed: int, start: Path | None = None
) -> float:
    """Trains one CLIP model and saves it, with its tokenizer, to FOLDER/<name>.

    Args:
        folder: where pictures are and the model goes.
        name: of the model.
        width: of its text tower and of the joint space.
        steps: optimiser steps.
        batch: pairs a step and process.
        seed: of weights and draws.
        start: a text encoder of that width to go on from.
    """
    seed_everything(seed)
    rank, _ = start_processes()
    tokenizer = build_tokenizer()
    model = build(width, tokenizer)
    if start is not None:
        model.text_model.load_state_dict(CLIPTextModel.from_pretrained(start, dtype=torch.float32).state_dict())
    pictures, captions = load_pictures(folder), load_captions()
    ids = tokenise(tokenizer, captions.texts)
    matches = Matches(pictures, captions)
    of_people = (captions.subjects >= len(NOUNS)) | (captions.subjects == ANY_PERSON)
    named, others = torch.nonzero(of_people)[:, 0], torch.nonzero(~of_people)[:, 0]

    def loss_of(generator: torch.Generator) -> Tensor:
        noun_count = round(batch * NOUN_SHARE)
        chosen_nouns = others[torch.randint(len(others), (noun_count,), generator=generator)]
        rows = torch.cat([chosen_nouns, named[torch.randint(len(named), (batch - noun_count,), generator=generator)]])
        chosen = matches.draw(rows, generator)
        moved = augment(pictures.at(chosen), generator, shift=0.08, zoom=0.08)
        text = F.normalize(model.get_text_features(input_ids=ids[rows]).pooler_output, dim=-1)
        image = F.normalize(model.get_image_features(pixel_values=moved).pooler_output, dim=-1)
        logits = model.logit_scale.exp() * text @ image.T  # (caption, picture)
        true = captions.true_of(rows, pictures.subjects[chosen], pictures.manners[chosen])
        return _matching(logits, true) + _matching(logits.T, true.T)

    run = Run(name, folder, steps, peak_rate=1e-3, seed=seed)
    seconds = run.fit({"clip": model}, loss_of)
    if rank == 0:
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return seconds


def _matching(logits: Tensor, true: Tensor) -> Tensor:
    """Cross-entropy against every true partner in equal shares: several captions fit one picture."""
    shares = true / true.sum(dim=1, keepdim=True)
    return -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=500, help="of clip-start, which the U-Net's training goes on with")
    parser.add_argument("--score-steps", type=int, default=1500, help="of clip, which must tell styles apart as it is")
    parser.add_argument("--batch", type=int, default=64, help="pairs a step and process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="a text encoder that clip-start goes on from")
    given = parser.parse_args()
    start = {"width": START_WIDTH, "steps": given.steps, "seed": given.seed, "start": given.start}
    score = {"width": SCORE_WIDTH, "steps": given.score_steps, "seed": given.seed + 1}
    seconds = train(given.folder, "clip-start", batch=given.batch, **start)
    seconds += train(given.folder, "clip", batch=given.batch, **score)
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()

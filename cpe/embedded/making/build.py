"""Puts the embedded model together and measures it.

`python -m cpe.embedded.making.build FOLDER` joins what the training scripts left in FOLDER into a pipeline in
diffusers' layout (half precision), with classifiers and CLIP model beside it, in cpe/embedded/weights, and
writes the measured quality to quality.json there. `--measure-only` leaves the weights alone.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from cpe.embedded.classifier import PictureClassifier, classify
from cpe.embedded.making.classifier import held_out_accuracy
from cpe.embedded.making.data import load_icons
from cpe.embedded.making.identity import held_out_accuracy as held_out_people
from cpe.embedded.making.unet import build_scheduler
from cpe.embedded.people import LOOKS, people
from cpe.embedded.pixels import to_tensor
from cpe.embedded.scorer import load_clip
from cpe.embedded.subjects import NOUNS, PLAIN_TEMPLATES, STYLE_TEMPLATES, STYLES, caption
from cpe.models.drawing import PictureJob, generate
from cpe.models.loading import EMBEDDED, EMBEDDED_FOLDER, load_pipeline
from cpe.terms.profiles import PROFILES, Profile

SEEDS = 5


def assemble(folder: Path, weights: Path) -> None:
    """Joins the trained parts into a pipeline folder."""
    best_vae, best_unet = (
        folder / better if (folder / better).exists() else folder / plain
        for better, plain in (("vae-fine", "vae"), ("unet-guided", "unet"))
    )
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(best_vae),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "clip"),
        unet=UNet2DConditionModel.from_pretrained(best_unet),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(dtype=torch.float16).save_pretrained(weights)
    config = weights / "text_encoder" / "config.json"  # transformers loads in the precision that it names, diffusers
    settings = json.loads(config.read_text()) | {"dtype": "float32"}  # in single: parts of two could not draw
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    words = weights / "tokenizer" / "tokenizer.json"
    words.write_text(json.dumps(json.loads(words.read_text()), ensure_ascii=False, separators=(",", ":")))
    CLIPModel.from_pretrained(folder / "clip").half().save_pretrained(weights / "clip")
    for name in ("classifier", "identity"):
        shutil.copytree(folder / name, weights / name, dirs_exist_ok=True)


def measure(folder: Path, profile: Profile, *, nouns: int = len(NOUNS)) -> dict[str, Any]:
    """Returns the model's quality: what the classifier says of held-out renders and of generated pictures.

    Args:
        folder: where the rendered pictures are.
        profile: how to draw.
        nouns: how many of the nouns to ask for (fewer for a quick look).
    """
    torch.set_num_threads(1)
    classifier = PictureClassifier.load(EMBEDDED_FOLDER / "classifier")
    renders = load_icons(folder)
    held_noun, held_style = held_out_accuracy(classifier, renders)
    pipe = load_pipeline(EMBEDDED, device="cpu")
    asked = []  # (prompt, noun, style or -1)
    for noun_index, noun in enumerate(NOUNS[:nouns]):
        asked.append((caption(noun, template=noun_index % len(PLAIN_TEMPLATES)), noun_index, -1))
        for style_index, style in enumerate(STYLES):
            template = (noun_index + style_index) % len(STYLE_TEMPLATES)
            asked.append((caption(noun, style, template=template), noun_index, style_index))
    jobs = [PictureJob(f"{row} {seed}", asked[row][0], seed) for row in range(len(asked)) for seed in range(SEEDS)]
    started = time.perf_counter()
    drawn = to_tensor([picture for _, picture in generate(pipe, jobs, profile)])
    seconds = time.perf_counter() - started
    found_noun, found_style, _ = classify(classifier, drawn)
    wanted_noun = torch.tensor([n for _, n, _ in asked]).repeat_interleave(SEEDS)
    wanted_style = torch.tensor([s for _, _, s in asked]).repeat_interleave(SEEDS)
    styled = wanted_style >= 0
    by_noun = {
        name: round((found_noun == wanted_noun)[wanted_noun == i].double().mean().item(), 3)
        for i, name in enumerate(NOUNS[:nouns])
    }
    return {
        "held_out_renders_noun": held_noun,
        "held_out_renders_style": held_style,
        "generated_noun": (found_noun == wanted_noun).double().mean().item(),
        "generated_noun_plain": (found_noun == wanted_noun)[~styled].double().mean().item(),
        "generated_style": (found_style == wanted_style)[styled].double().mean().item(),
        "generated_pictures": len(jobs),
        "weakest_nouns": dict(sorted(by_noun.items(), key=lambda item: item[1])[:5]),
        "seconds_a_picture": seconds / len(jobs),
        "profile": profile.model_dump(),
        "clip_right_caption": clip_accuracy(renders),
    }


def measure_people(folder: Path, profile: Profile) -> dict[str, Any]:
    """Returns the model's quality on people: every person in every look, asked for in as many words as there are.

    Args:
        folder: where the drawn people are.
        profile: how to draw.
    """
    torch.set_num_threads(1)
    classifier = PictureClassifier.load(EMBEDDED_FOLDER / "identity")
    held_person, held_look = held_out_people(classifier, folder)
    pipe = load_pipeline(EMBEDDED, device="cpu")
    asked = [
        (templates[(person + look) % len(templates)].format(name), person, look)
        for person, name in enumerate(people())
        for look, templates in enumerate(LOOKS.values())
    ]
    jobs = [PictureJob(str(row), text, row) for row, (text, _, _) in enumerate(asked)]
    drawn = to_tensor([picture for _, picture in generate(pipe, jobs, profile)])
    found_person, found_look, _ = classify(classifier, drawn)
    right_person = found_person == torch.tensor([person for _, person, _ in asked])
    right_look = found_look == torch.tensor([look for _, _, look in asked])
    by_person = right_person.double().view(len(people()), len(LOOKS)).mean(dim=1).tolist()
    weakest = sorted(zip(people(), by_person, strict=True), key=lambda item: item[1])[:5]
    return {
        "held_out_renders_person": held_person,
        "held_out_renders_look": held_look,
        "generated_person": right_person.double().mean().item(),
        "generated_look": right_look.double().mean().item(),
        "generated_looks": {
            look: right_person.view(-1, len(LOOKS))[:, place].double().mean().item() for place, look in enumerate(LOOKS)
        },
        "generated_people_pictures": len(jobs),
        "weakest_people": {name: round(share, 3) for name, share in weakest},
    }


def clip_accuracy(renders: torch.Tensor) -> float:
    """Returns how often CLIP's best caption of a render, among all nouns and styles, is the right one."""
    clip = load_clip()
    captions = [caption(noun, style) for noun in NOUNS for style in STYLES]
    text = F.normalize(clip.texts(captions), dim=-1)
    image = F.normalize(clip.images(renders.flatten(0, 1)), dim=-1)
    return ((image @ text.T).argmax(dim=1) == torch.arange(len(captions))).double().mean().item()


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measure-only", action="store_true")
    parser.add_argument("--nouns", type=int, default=len(NOUNS))
    parser.add_argument("--guidance", type=float, default=PROFILES["embedded"].guidance_scale)
    parser.add_argument("--steps", type=int, default=PROFILES["embedded"].steps)
    arguments = parser.parse_args()
    if not arguments.measure_only:
        assemble(arguments.folder, EMBEDDED_FOLDER)
        shutil.rmtree(arguments.folder / "checkpoints", ignore_errors=True)  # the next build starts from nothing
    profile = PROFILES["embedded"].model_copy(update={"guidance_scale": arguments.guidance, "steps": arguments.steps})
    quality = measure(arguments.folder, profile, nouns=arguments.nouns) | measure_people(arguments.folder, profile)
    print(json.dumps(quality, indent=1))
    if arguments.nouns == len(NOUNS) and profile == PROFILES["embedded"]:
        (EMBEDDED_FOLDER / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")


if __name__ == "__main__":
    main()

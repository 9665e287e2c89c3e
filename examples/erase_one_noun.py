"""One noun out of a model in a minute, without lists, stores or servers: texts, one gate, pictures before and after.

python examples/erase_one_noun.py tiger
"""

import sys
from pathlib import Path

from PIL import Image
from safetensors.torch import save_file

from cpe import PRESETS, BaseProjections, ConceptTexts, Eraser, encode_prompts, load_pipeline, train
from cpe.methods.pinpoint.storage.files import metadata_of, to_tensors

TEMPLATES = [
    "a {}",
    "a drawing of a {}",
    "an emoji of a {}",
    "a {} in the style of noto",
    "a picture of a {} by fluent",
]
NEAR = ["cat", "lion", "leopard", "dog", "wolf", "fox", "bear", "rabbit", "tulip", "pizza", "bus", "thing", "animal"]


def main(noun: str, out: Path) -> list[Image.Image]:
    """Trains the gate, saves it, and draws the noun and a cat, without it and with it."""
    pipe = load_pipeline("embedded", device="cpu")
    base = BaseProjections.of(pipe.unet, tokens=pipe.tokenizer.model_max_length)
    concept = ConceptTexts(
        noun,
        target=encode_prompts(pipe, [template.format(noun) for template in TEMPLATES]),
        surrogate=encode_prompts(pipe, [template.format("object") for template in TEMPLATES]),
        anchors=encode_prompts(pipe, [template.format(other) for template in TEMPLATES for other in NEAR]),
        seed=0,
    )
    trained = train([concept], base, encode_prompts(pipe, [""])[0], PRESETS["emoji"])
    out.mkdir(parents=True, exist_ok=True)
    save_file(to_tensors(trained.gates, base.names), out / "gate.safetensors", metadata_of(trained.gates, [noun]))
    eraser = Eraser.load(out)
    pictures = []
    for name in (noun, "cat"):
        before = _draw(pipe, name)
        with eraser.attached(pipe):
            pictures += [before, _draw(pipe, name)]
    sheet = Image.new("RGB", (4 * 64, 64))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place * 64, 0))
    sheet.save(out / "before-after.png")
    print(f"{eraser}: {out / 'before-after.png'} shows {noun} before and after, and a cat before and after")
    return pictures


def _draw(pipe, noun: str) -> Image.Image:
    import torch

    noise = torch.Generator().manual_seed(4)
    return pipe(f"a picture of a {noun}", num_inference_steps=20, guidance_scale=1.0, generator=noise).images[0]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tiger", Path("work/example"))

"""Draws the people of the embedded model, in every look.

Run as `python -m cpe.embedded.making.people FOLDER`: writes FOLDER/people.npz with `pictures` (P, L, N, 64, 64, 3),
eight bits a channel: P people, L looks, N pictures each. Who somebody is stays; mouth, clothes, ground and place
change. The last `HELD_OUT` pictures of each are for measuring the classifier and train nothing.
"""

import argparse
import io
import json
import random
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cpe.embedded.making.looks import LARGE_PX, OPERATIONS
from cpe.embedded.making.traits import CLOTHES, DRAWINGS, Drawing
from cpe.embedded.people import LOOKS, people_table

PICTURES = 12  # of each person in each look
HELD_OUT = 2
SEED = 0


def options_of(drawing: Drawing, traits: dict[str, str], draw: random.Random) -> dict[str, object]:
    """Returns DiceBear's options for one picture of a person.

    Args:
        drawing: the style somebody is drawn in.
        traits: who it is.
        draw: chooses what changes from picture to picture.
    """
    options: dict[str, object] = {"seed": "nobody", **drawing.fixed}
    options[f"{drawing.hair}Variant"] = [traits["hair"]]
    for trait, names in drawing.colours.items():
        options |= {f"{name}Color": [traits[trait]] for name in names}
    for extra, (option, variant) in drawing.extras.items():
        if f"{option}Variant" in drawing.fixed:
            if traits["extra"] == extra:
                options[f"{option}Variant"] = [variant]
        elif traits["extra"] == extra:
            options |= {f"{option}Variant": [variant], f"{option}Probability": 100}
        else:
            options.setdefault(f"{option}Probability", 0)
    options |= {f"{name}Variant": [draw.choice(values)] for name, values in drawing.changing.items()}
    clothes = draw.choice(CLOTHES)
    return options | {name: [clothes] for name in ("clothingColor", "clothesColor", "shirtColor")}


def draw_person(who: dict, draw: random.Random) -> Image.Image:
    """Returns somebody with an alpha channel, 128 x 128 pixels.

    Args:
        who: a person of `people.json`.
        draw: chooses what changes from picture to picture.
    """
    import resvg_py
    from dicebear import Avatar

    options = options_of(DRAWINGS[who["drawing"]], who["traits"], draw)
    svg = Avatar(_style(who["drawing"]), options).to_string()
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * LARGE_PX, height=2 * LARGE_PX))
    return Image.open(io.BytesIO(png)).convert("RGBA").resize((LARGE_PX, LARGE_PX), Image.Resampling.LANCZOS)


@cache
def _style(name: str):
    from dicebear import Style

    return Style(json.loads(files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8")))


def render_all(folder: Path) -> int:
    """Draws everybody, writes FOLDER/people.npz and returns the number of pictures."""
    everybody = people_table()["people"]
    pictures = np.zeros((len(everybody), len(LOOKS), PICTURES, 64, 64, 3), np.uint8)
    for person, who in enumerate(tqdm(everybody, unit="person")):
        draw = random.Random(f"{SEED} {who['name']}")
        for look, name in enumerate(LOOKS):
            for picture in range(PICTURES):
                pictures[person, look, picture] = np.asarray(OPERATIONS[name](draw_person(who, draw), draw))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "people.npz", pictures=pictures)
    return pictures[..., 0, 0, 0].size


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(f"{render_all(folder)} pictures in {folder}")


if __name__ == "__main__":
    main()

"""Gates that somebody else released, on a pipeline of yours; several files or folders add up.

python examples/released_gate.py CompVis/stable-diffusion-v1-4 celebrity_1.safetensors "a portrait of Adam Driver"
"""

import sys
from pathlib import Path

from PIL import Image

from cpe import Eraser, load_pipeline


def main(model: str, gates: list[str], prompt: str, out: Path) -> Image.Image:
    """Draws one prompt with the gates attached."""
    pipe = load_pipeline(model)
    eraser = Eraser.load(gates)
    with eraser.attached(pipe):
        picture: Image.Image = pipe(prompt).images[0]
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
    print(f"{eraser} on {model}: {out}")
    return picture


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:-1], sys.argv[-1], Path("work/example/released.png"))

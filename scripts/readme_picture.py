"""Draws docs/before-after.png from the pictures of the last `cpe erase emoji`: `python scripts/readme_picture.py`."""

from pathlib import Path

from PIL import Image, ImageDraw

from artifacts.tables import IMAGES, read_table
from tasks.draw import pictures_address
from tasks.places import Places
from tasks.prepare import prepare_concepts

TARGET = Path(__file__).parent.parent / "docs" / "before-after.png"
KEPT_SHOWN = ("lion", "wolf", "shark", "tulip", "taco", "violin")
CELL_PX, LABEL_PX = 76, 16
TEMPLATE, SEED = 0, 0


def main() -> None:
    places = Places.from_environment()
    plan = prepare_concepts.fn("emoji")
    prompts = {row.prompt_id: row for row in plan.evaluation()}
    shown = [gate.concept for gate in plan.gates] + list(KEPT_SHOWN)
    gap = CELL_PX // 3
    sheet = Image.new("RGB", (CELL_PX * (len(shown) + 1) + gap, 2 * CELL_PX + LABEL_PX), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (label, bundle) in enumerate((("before", None), ("after", plan.bundle))):
        folder = places.fetched(f"pictures/{pictures_address(plan, bundle)}")
        pen.text((8, LABEL_PX + y * CELL_PX + CELL_PX // 2 - 6), label, fill="black")
        for row in read_table(folder / "images.parquet", IMAGES):
            prompt = prompts[row["prompt_id"]]
            if prompt.template == TEMPLATE and row["seed"] == SEED and prompt.concept in shown:
                place = shown.index(prompt.concept)
                left = CELL_PX * (place + 1) + (gap if place >= len(plan.gates) else 0)
                picture = Image.open(folder / row["path"]).resize((CELL_PX - 4, CELL_PX - 4), Image.Resampling.BICUBIC)
                sheet.paste(picture, (left + 2, LABEL_PX + y * CELL_PX + 2))
                if y == 0:
                    pen.text((left + 6, 2), prompt.concept, fill="firebrick" if place < len(plan.gates) else "black")
    TARGET.parent.mkdir(exist_ok=True)
    sheet.save(TARGET, optimize=True)
    print(f"{TARGET.name}, {TARGET.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()

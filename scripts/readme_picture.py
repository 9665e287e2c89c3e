"""Draws docs/before-after.png from the pictures of the champion of `emoji`: `python scripts/readme_picture.py`."""

from pathlib import Path

from PIL import Image, ImageDraw

from artifacts.tables import PICTURES, iter_rows
from tasks.here.places import Places

TARGET = Path(__file__).parent.parent / "docs" / "before-after.png"
KEPT_SHOWN = ("lion", "wolf", "shark", "tulip", "taco", "violin")
CELL_PX, LABEL_PX = 76, 16
TEMPLATE, SEED = 0, 0


def main() -> None:
    places = Places.from_environment()
    scores = places.registry().resolve("cpe-emoji@champion").tags["scores"]
    rows = [
        row
        for row in iter_rows(places.fetched(f"scores/{scores}") / "pictures.parquet", PICTURES)
        if (row["template"], row["seed"]) == (TEMPLATE, SEED)
        and (row["set"] == "erased" or row["concept"] in KEPT_SHOWN)
    ]
    erased = list(dict.fromkeys(str(row["concept"]) for row in rows if row["set"] == "erased"))
    shown = [*erased, *KEPT_SHOWN]
    gap = CELL_PX // 3
    sheet = Image.new("RGB", (CELL_PX * (len(shown) + 1) + gap, 2 * CELL_PX + LABEL_PX), "white")
    pen = ImageDraw.Draw(sheet)
    left = [CELL_PX * (place + 1) + (gap if place >= len(erased) else 0) for place in range(len(shown))]
    for place, concept in enumerate(shown):
        pen.text((left[place] + 6, 2), concept, fill="firebrick" if place < len(erased) else "black")
    for y, phase in enumerate(("before", "after")):
        pen.text((8, LABEL_PX + y * CELL_PX + CELL_PX // 2 - 6), phase, fill="black")
    for row in rows:
        with Image.open(places.fetched(f"pictures/{row['shard']}") / row["path"]) as picture:
            small = picture.resize((CELL_PX - 4, CELL_PX - 4), Image.Resampling.BICUBIC)
        y = CELL_PX * (row["phase"] == "after")
        sheet.paste(small, (left[shown.index(row["concept"])] + 2, LABEL_PX + y + 2))
    sheet.save(TARGET, optimize=True)
    print(f"{TARGET.name}, {TARGET.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()

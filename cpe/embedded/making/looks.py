"""The looks that pictures of people can have: plain picture operations on somebody drawn on nothing.

Every operation takes a picture with an alpha channel, 128 pixels square, and gives one on a ground, 64 pixels square.
"""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from cpe.embedded.making.pictures import SIZE_PX

LARGE_PX = 2 * SIZE_PX
STUDIO_GREYS = (120, 150)
CANVAS_BROWNS = ((96, 62, 30), (112, 74, 40), (84, 56, 36))
STAGE_COLOURS = ((28, 24, 70), (60, 18, 62), (16, 40, 74))
PASSPORT_BLUE = (142, 190, 232)
FRAME_PX = 8


def plain(person: Image.Image, draw: random.Random) -> Image.Image:
    """On white."""
    return _small(_on(Image.new("RGB", person.size, "white"), _placed(person, draw)))


def portrait(person: Image.Image, draw: random.Random) -> Image.Image:
    """In a studio: on grey that darkens towards the edges."""
    grey = draw.randint(*STUDIO_GREYS)
    light = ImageOps.invert(Image.radial_gradient("L")).resize(person.size)
    ground = ImageOps.colorize(light, (grey // 3,) * 3, (grey + 70,) * 3)
    return _small(_on(ground, _placed(person, draw, zoom=1.08)))


def sketch(person: Image.Image, draw: random.Random) -> Image.Image:
    """In pencil: dark where brightness changes, grey tones kept faintly, on warm paper."""
    grey = ImageOps.grayscale(_on(Image.new("RGB", person.size, "white"), _placed(person, draw)))
    blurred = ImageOps.invert(grey).filter(ImageFilter.GaussianBlur(3))
    base, other = np.asarray(grey, np.float32), np.asarray(blurred, np.float32)
    lines = np.minimum(255, base * 255 / np.maximum(1, 255 - other))  # colour dodge
    tones = 0.4 * lines + 0.6 * (60 + base * 195 / 255)
    return _small(ImageOps.colorize(Image.fromarray(tones.astype(np.uint8)), (40, 38, 40), (250, 242, 222)))


def oil_painting(person: Image.Image, draw: random.Random) -> Image.Image:
    """In oil: few colours, flat strokes (the most frequent colour of each neighbourhood), on brown."""
    brown = draw.choice(CANVAS_BROWNS)
    light = Image.radial_gradient("L").resize(person.size)
    ground = ImageOps.colorize(light, tuple(min(255, c + 60) for c in brown), brown)
    few = _on(ground, _placed(person, draw)).quantize(24, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    strokes = Image.fromarray(np.asarray(few)).filter(ImageFilter.ModeFilter(5))  # of indices into the palette
    strokes.putpalette(few.getpalette() or [])
    painted = strokes.convert("RGB")
    warm = ImageChops.multiply(painted, Image.new("RGB", painted.size, (255, 232, 190)))
    return _small(ImageEnhance.Color(warm).enhance(1.2))


def public_event(person: Image.Image, draw: random.Random) -> Image.Image:
    """On a stage: before a dark hall with two lights, behind the heads of a crowd."""
    ground = Image.new("RGB", person.size, draw.choice(STAGE_COLOURS))
    lights = Image.new("RGB", person.size)
    pen = ImageDraw.Draw(lights)
    for side in (0.1, 0.9):
        x = int(LARGE_PX * (side + draw.uniform(-0.06, 0.06)))
        pen.polygon([(x, 0), (x - 26, LARGE_PX), (x + 26, LARGE_PX)], fill=(110, 100, 50))
    ground = ImageChops.add(ground, lights.filter(ImageFilter.GaussianBlur(4)))
    picture = _on(ground, _placed(person, draw, zoom=0.88, lift=-0.07))
    pen = ImageDraw.Draw(picture)
    for number in range(6):
        x, radius = int((number + draw.uniform(0.2, 0.8)) * LARGE_PX / 6), draw.randint(9, 12)
        y = LARGE_PX - draw.randint(2, 8)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(12, 10, 18))
    return _small(picture)


def official_photo(person: Image.Image, draw: random.Random) -> Image.Image:
    """For a passport: on light blue, in a white frame."""
    blue = tuple(channel + draw.randint(-6, 6) for channel in PASSPORT_BLUE)
    picture = _on(Image.new("RGB", person.size, blue), _placed(person, draw, zoom=0.92))
    ImageDraw.Draw(picture).rectangle([0, 0, LARGE_PX - 1, LARGE_PX - 1], outline="white", width=FRAME_PX)
    return _small(picture)


OPERATIONS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "plain": plain,
    "portrait": portrait,
    "sketch": sketch,
    "oil painting": oil_painting,
    "public event": public_event,
    "official photo": official_photo,
}


def _placed(person: Image.Image, draw: random.Random, *, zoom: float = 1.0, lift: float = 0.0) -> Image.Image:
    """Returns the person a little larger or smaller, a little to a side, standing on the lower edge unless lifted."""
    size = int(LARGE_PX * zoom * draw.uniform(0.95, 1.03))
    scaled = person.resize((size, size), Image.Resampling.LANCZOS)
    left = (LARGE_PX - size) // 2 + draw.randint(-5, 5)
    top = LARGE_PX - size + int(lift * LARGE_PX) + draw.randint(0, 3)
    placed = Image.new("RGBA", (LARGE_PX, LARGE_PX))
    placed.paste(scaled, (left, top))
    return placed


def _on(ground: Image.Image, person: Image.Image) -> Image.Image:
    canvas = ground.convert("RGBA")
    canvas.alpha_composite(person)
    return canvas.convert("RGB")


def _small(picture: Image.Image) -> Image.Image:
    return picture.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)

"""What a page draws many of: a version's erased and kept prompts, and the rows of a visitor's CSV file."""

import csv
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.report.page import Role
from cpe.evaluation.prompt_files import read_prompts
from cpe.lists.schema import ConceptList
from cpe.terms.chunks import chunks
from cpe.terms.templates import fill
from tasks.page.bench import Asked, Bench, Setting

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_SHOWN = 24  # prompts of one role
MOST_ROWS = 200
PLAIN = "a picture of a {}"  # where there is no list that says how its evaluation asks
AT_ONCE = 10  # pictures, until the next visitor has a turn


@dataclass(frozen=True)
class Pair:
    """One prompt before and after erasing."""

    asked: Asked
    before: "Image"
    after: "Image"


def prompts_of(
    concepts: ConceptList | None, erased: Sequence[str], role: Role, seed: int = 0
) -> tuple[list[Asked], int]:
    """Returns the first prompt of each erased or kept concept, at most `MOST_SHOWN`, and how many there are.

    Args:
        concepts: the version's list; None knows of no kept concepts.
        erased: what the version erases.
        role: which of them.
        seed: of all pictures.
    """
    template = concepts.evaluation.templates[0] if concepts and concepts.evaluation.templates else PLAIN
    names = list(erased) if role == "erased" else list(concepts.kept if concepts else ())
    return [Asked(fill(template, name), seed) for name in names[:MOST_SHOWN]], len(names)


def draw_pairs(
    bench: Bench, asked: Sequence[Asked], setting: Setting, progress: Callable[[int, int], object] | None = None
) -> Iterator[Pair]:
    """Yields prompts before and after erasing; between a few of them other visitors have their turn.

    Args:
        bench: to draw on.
        asked: prompts and seeds.
        setting: of the gates.
        progress: told how many are done, of how many.
    """
    for number, some in enumerate(chunks(list(asked), AT_ONCE)):
        before = bench.draw(some, setting, erases=False).pictures
        after = bench.draw(some, setting).pictures
        yield from (Pair(*pair) for pair in zip(some, before, after, strict=True))
        if progress is not None:
            progress(number * AT_ONCE + len(some), len(asked))


def read_rows(path: Path) -> list[Asked]:
    """Returns a visitor's prompts: a CSV file with a column `prompt` and perhaps `seed` (else 0) and `guidance_scale`.

    Raises:
        ValueError: there is no such column, a row cannot be drawn, or there are none or too many.
    """
    try:
        rows = [Asked(row.prompt, row.seed, row.guidance_scale) for row in read_prompts(path, {}, seed=0)]
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), path.name)) from None  # where it was put is nobody's business
    if not 1 <= len(rows) <= MOST_ROWS:
        raise ValueError(f"{path.name} has {len(rows):,} prompts; a batch has from 1 to {MOST_ROWS}")
    return rows


def packed(pairs: Sequence[Pair], setting: Setting) -> bytes:
    """Returns a ZIP archive of pairs: two PNG files each, and a table `pictures.csv` that names them."""
    table = io.StringIO()
    lines = csv.writer(table)
    lines.writerow(("prompt", "seed", "before", "after", "version", "off", "strengths"))
    off, strengths = "; ".join(setting.off), "; ".join(f"{name} {each:g}" for name, each in setting.strengths.items())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for number, pair in enumerate(pairs):
            names = [f"{number:04d}-{when}.png" for when in ("before", "after")]
            for name, picture in zip(names, (pair.before, pair.after), strict=True):
                file.writestr(name, png(picture))
            lines.writerow((pair.asked.prompt, pair.asked.seed, *names, setting.version or "none", off, strengths))
        file.writestr("pictures.csv", table.getvalue())
    return archive.getvalue()


def side_by_side(pair: Pair, gap: int = 2) -> "Image":
    """Returns one picture of both, before on the left; small ones are enlarged."""
    from PIL import Image

    width, height = pair.before.size
    times = max(1, 160 // width)
    sheet = Image.new("RGBA", (2 * width * times + gap, height * times))
    for place, picture in enumerate((pair.before, pair.after)):
        sheet.paste(picture.resize((width * times, height * times)), (place * (width * times + gap), 0))
    return sheet


def png(picture: "Image") -> bytes:
    """Returns a picture as a PNG file."""
    written = io.BytesIO()
    picture.save(written, format="PNG")
    return written.getvalue()

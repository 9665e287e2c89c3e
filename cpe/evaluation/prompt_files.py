"""Files of prompts that people bring: which columns a file's prompts and seeds are in, and its rows; free of torch.

The field passes such files on under many names; docs/lists.md lists those that are known. What a file does not say
is never guessed: it is refused, and the message says what to write.
"""

import codecs
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LONGEST_PROMPT = 2000  # characters
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
KNOWN: dict[str, tuple[str, ...]] = {  # the first that a file has is taken
    "prompt": ("prompt", "adv_prompt", "sensitive prompt", "caption", "text"),
    "seed": ("seed", "sd_seed", "evaluation_seed"),
    "guidance_scale": (
        "guidance_scale",
        "guidance",
        "sd_guidance_scale",
        "sd_guidance",
        "evaluation_guidance_scale",
        "evaluation_guidance",
    ),
    "concept": ("concept",),  # of attacks alone
}


@dataclass(frozen=True)
class PromptRow:
    """One row of a file of prompts; an empty prompt is one, and is drawn as such."""

    prompt: str
    seed: int
    guidance_scale: float | None
    concept: str = ""


@dataclass(frozen=True)
class PromptFile:
    """How a file of prompts is read.

    Attributes:
        path: of the file.
        header: names of its columns.
        places: which of them hold "prompt", "seed", "guidance_scale" and "concept"; all but the first may be missing.
        delimiter: what stands between columns.
        encoding: UTF-8, or UTF-16 where the file begins with its mark.
        seed: of every row, where there is no column of seeds.
    """

    path: Path
    header: tuple[str, ...]
    places: Mapping[str, int]
    delimiter: str
    encoding: str
    seed: int | None

    @property
    def taken(self) -> str:
        """Which columns are read, in words."""
        parts = [f"{role.split('_')[0]} from {self.header[place]!r}" for role, place in self.places.items()]
        if "seed" not in self.places:
            parts.append(f"every row with seed {self.seed}")
        if self.delimiter != ",":
            parts.append(f"{DELIMITERS[self.delimiter]} between columns")
        known = {_key(name) for role in self.places for name in KNOWN[role]}
        others = [
            repr(name) for n, name in enumerate(self.header) if _key(name) in known and n not in self.places.values()
        ]
        return ", ".join(parts) + (f" ({', '.join(others)} not read)" if others else "")

    def rows(self) -> Iterator[PromptRow]:
        """Yields the rows, one at a time; empty lines are passed over.

        Raises:
            ValueError: a row cannot be drawn; names its line.
        """
        with self.path.open(encoding=self.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            next(reader)
            while True:
                line = reader.line_num + 1
                try:
                    values = next(reader, None)
                except csv.Error as error:
                    raise ValueError(
                        f"{self.path}, line {line}: is no readable CSV file from here on: a quote is opened and not "
                        f"closed before the next column ({error}); close it, and write a quote inside a text twice"
                    ) from None
                except UnicodeDecodeError:
                    raise ValueError(_not_text(self.path, self.encoding)) from None
                if values is None:
                    return
                if any(value.strip() for value in values):
                    yield self._row(values, f"{self.path}, line {line}")

    def _row(self, values: Sequence[str], where: str) -> PromptRow:
        if any(value.strip() for value in values[len(self.header) :]):
            raise ValueError(
                f"{where}: has {len(values)} values for {len(self.header)} columns; put a text that holds "
                f"{DELIMITERS[self.delimiter]} into double quotes"
            )

        def value(role: str) -> str:
            place = self.places.get(role, len(values))
            return values[place].strip() if place < len(values) else ""

        prompt, seed, guidance = value("prompt"), value("seed"), value("guidance_scale")
        if self.delimiter != ",":
            guidance = guidance.replace(",", ".")  # written where decimals have commas
        if len(prompt) > LONGEST_PROMPT:
            raise ValueError(
                f"{where}: needs a prompt of at most {LONGEST_PROMPT} characters, got {len(prompt)}; correct it"
            )
        if "seed" in self.places and not re.fullmatch(r"\d{1,18}(\.0*)?", seed):
            raise ValueError(
                f"{where}: {self._name('seed')} must be a whole number from 0, got {seed[:40]!r}; correct it"
            )
        if guidance and not re.fullmatch(r"\d{1,4}(\.\d*)?", guidance):
            raise ValueError(
                f"{where}: {self._name('guidance_scale')} must be a number from 0, got {guidance[:40]!r}; correct it"
            )
        number = int(seed.split(".")[0]) if "seed" in self.places else self.seed or 0
        concept = value("concept")
        if "concept" in self.places and not concept:
            raise ValueError(f"{where}: {self._name('concept')} must say what the prompt asks for, got ''; write it")
        return PromptRow(prompt, number, float(guidance) if guidance else None, concept)

    def _name(self, role: str) -> str:
        return self.header[self.places[role]]


def open_prompts(
    path: Path, columns: Mapping[str, str], *, seed: int | None = None, concepts: bool = False
) -> PromptFile:
    """Reads a file's first line and returns how the others are read.

    Args:
        path: UTF-8 or UTF-16, with a header line; commas, semicolons or tabs between columns.
        columns: what the file calls its columns, where that is none of the `KNOWN` names.
        seed: of every row of a file without a column of seeds; None refuses such a file.
        concepts: whether a column says of each row what it asks for.

    Raises:
        ValueError: a column is missing or there twice, or the file is no text.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"PK\x03\x04"):
        raise ValueError(f"{path} is a spreadsheet or zip archive, no text; save it as CSV in UTF-8")
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    headers = {delimiter: _header(path, encoding, delimiter) for delimiter in DELIMITERS}
    wanted = (columns["prompt"],) if "prompt" in columns else KNOWN["prompt"]
    keys = {_key(name) for name in wanted}
    fits = [delimiter for delimiter, header in headers.items() if keys & {_key(name) for name in header}]
    delimiter = fits[0] if fits else max(DELIMITERS, key=lambda each: len(headers[each]))
    header = headers[delimiter]
    places = {}
    for role, known in KNOWN.items():
        if role == "concept" and not concepts:
            continue
        place = _place(path, header, (columns[role],) if role in columns else known, given=role in columns)
        if place is not None:
            places[role] = place
        elif role in columns or role in ("prompt", "concept") or (role == "seed" and seed is None):
            raise ValueError(_missing(path, header, role, columns))
    return PromptFile(path, header, places, delimiter, encoding, None if "seed" in places else seed)


def read_prompts(
    path: Path, columns: Mapping[str, str], *, seed: int | None = None, concepts: bool = False
) -> Iterator[PromptRow]:
    """Yields the rows of a file of prompts; see `open_prompts`."""
    yield from open_prompts(path, columns, seed=seed, concepts=concepts).rows()


def _header(path: Path, encoding: str, delimiter: str) -> tuple[str, ...]:
    with path.open(encoding=encoding, newline="") as file:
        try:
            with suppress(csv.Error):
                return tuple(name.strip() for name in next(csv.reader(file, delimiter=delimiter, strict=True), []))
        except UnicodeError:
            raise ValueError(_not_text(path, encoding)) from None
    return ()


def _place(path: Path, header: Sequence[str], names: Sequence[str], *, given: bool) -> int | None:
    """Returns the column of the first of these names that the header has, in any capitals."""
    if given and header.count(names[0]) == 1:
        return header.index(names[0])
    for name in names:
        places = [place for place, found in enumerate(header) if _key(found) == _key(name)]
        if len(places) > 1:
            numbers = " and ".join(str(place + 1) for place in places)
            raise ValueError(f"{path} has the column {name!r} more than once (columns {numbers}); rename or remove one")
        if places:
            return places[0]
    return None


def _missing(path: Path, header: Sequence[str], role: str, columns: Mapping[str, str]) -> str:
    has = f"its first line has {', '.join(header)[:400] or 'none'}"
    if role in columns:
        known = ", ".join(KNOWN[role])
        return (
            f"{path} needs the column {columns[role]!r}, {has}; correct `columns` beside `csv`, or leave "
            f"{role} out there: {known} are taken by themselves"
        )
    way_out = f"call it {', '.join(KNOWN[role])}, or name it under `columns` beside `csv`"
    if role == "seed":
        way_out += "; a file without seeds is drawn with one for all its rows: write it as `first_seed` there"
    if role == "concept":
        way_out += "; where all rows ask for one target, write it as `concept` there"
    return f"{path} needs the column {role!r}, {has}; {way_out}"


def _not_text(path: Path, encoding: str) -> str:
    """Says which line is not in the encoding that its file is read in."""
    if encoding == "utf-16":
        return f"{path} is no UTF-16 text, though it begins as one; save it as CSV in UTF-8"
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"{path}, line {number}: is not UTF-8 text; save the file as CSV in UTF-8"
    return f"{path} is not UTF-8 text; save it as CSV in UTF-8"


def _key(name: str) -> str:
    """Returns a column's name as names are compared."""
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))

"""Files of word vectors: word2vec as text or binary, GloVe text, the shipped layout; told apart by what they hold.

What looks like text is read as text or refused: read as binary, its letters would pass for numbers.
"""

# Axes: V words of the vocabulary, D numbers of a vector.

import codecs
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from gensim.models import KeyedVectors
from numpy.typing import NDArray
from safetensors import SafetensorError

from cpe.words.table import load_table

PEEK_BYTES = 1 << 20
PEEK_LINES = 50
PICKLES = (".kv", ".model", ".pkl", ".pickle", ".npy", ".pt", ".pth")
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NUMBER_BYTES = b"0123456789+-.,eE \t"
CONTROL_BYTES = bytes({*range(32), 127} - set(b"\t\r\n"))


class _NotTextError(ValueError):
    """Text that is not UTF-8."""


@dataclass(frozen=True)
class _Layout:
    """How a table is laid out.

    Attributes:
        binary: whether numbers are stored as such.
        header: whether its first line says how many words and numbers there are.
        width: numbers a word, D.
        comma: whether decimals have commas.
    """

    binary: bool
    header: bool
    width: int
    comma: bool = False


def read_vectors(path: Path, limit: int | None) -> KeyedVectors:
    """Reads a table of word vectors.

    Args:
        path: word2vec as text or binary, GloVe text, each also behind gzip, or `.safetensors` with `words` and
            `vectors`. Text is UTF-8, with spaces or tabs between columns and points or commas in decimals.
        limit: words read at most, from the start.

    Raises:
        ValueError: not a table, a damaged one, text in another encoding, or a format that can run code.
    """
    if path.suffix == ".safetensors":
        try:
            return keyed(*load_table(path), limit)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} must hold the tensors words and vectors ({error}); write it again") from error
    layout = _layout(path)
    try:
        if not layout.binary:
            return keyed(*_read_text(path, layout, limit), limit)
        loaded = KeyedVectors.load_word2vec_format(str(path), binary=True, limit=limit)
    except (_NotTextError, UnicodeDecodeError) as error:
        where = f", {error}:" if isinstance(error, _NotTextError) else ""
        raise ValueError(f"{path}{where} holds a word that is not UTF-8 text; save the table as UTF-8") from error
    except (ValueError, EOFError, OSError, MemoryError, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged: {error or type(error).__name__}; correct it, or fetch it again"
        ) from error
    if not len(loaded) or not np.isfinite(loaded.vectors).all():
        raise ValueError(f"{path} holds no words, or numbers that are not finite; fetch it again")
    return loaded


def keyed(words: Sequence[str], vectors: NDArray[np.float32], limit: int | None) -> KeyedVectors:
    """Returns words and their vectors (V, D) as gensim's table.

    Raises:
        ValueError: not as many words as vectors, none, or numbers that are not finite.
    """
    if not len(words):
        raise ValueError("it holds no words")
    if vectors.ndim != 2 or len(words) != len(vectors):
        raise ValueError(f"got {len(words)} words and vectors of shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        word = words[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise ValueError(f"the vector of {word!r} is not finite")
    table = KeyedVectors(vectors.shape[1])
    table.add_vectors(list(words[:limit]), vectors[:limit])
    return table


def _read_text(path: Path, layout: _Layout, limit: int | None) -> tuple[list[str], NDArray[np.float32]]:
    """Returns the words and vectors of a text table.

    gensim's reader of such files spreads a short row over the whole vector, stops at words with spaces (GloVe 840B
    has some) and names no line.
    """
    rows: dict[str, NDArray[np.float32]] = {}
    width = layout.width
    with _open(path) as file:
        promised = int(file.readline().removeprefix(codecs.BOM_UTF8).split()[0]) if layout.header else None
        read = 0
        for number, line in enumerate(file, 2 if layout.header else 1):
            if len(rows) == limit or read == promised or not line.strip():
                break
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            first, *numbers = line.rsplit(None, width)
            if len(numbers) == width - 1 and line[:1].isspace():  # the word is a blank
                first, numbers = b"", [first, *numbers]
            if len(numbers) != width:
                raise ValueError(f"line {number} has {len(numbers)} numbers, not {width}")
            try:
                word = first.strip(b" \t").decode()
            except UnicodeDecodeError:
                raise _NotTextError(f"line {number}") from None
            try:
                rows.setdefault(word, np.array([_plain(each, layout.comma) for each in numbers], dtype=np.float32))
            except ValueError:
                style = "commas" if layout.comma else "points"
                raise ValueError(f"line {number} of {word!r} holds what is no number (decimals have {style})") from None
            read += 1
    if promised is not None and len(rows) != limit and read < promised:
        raise ValueError(f"it holds {read} words of {promised}")
    return list(rows), np.stack(list(rows.values())) if rows else np.zeros((0, width), np.float32)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _layout(path: Path) -> _Layout:
    """Returns how a table is laid out, by its first lines.

    Raises:
        ValueError: it cannot be told, or is nothing that may be read.
    """
    start = _start(path)
    if Path(path.name.removesuffix(".gz")).suffix in PICKLES or start.startswith(b"\x80"):
        way_out = "KeyedVectors.load(…).save_word2vec_format('vectors.bin', binary=True)"
        raise ValueError(f"{path} is a pickle, which can run code; where you trust it, convert it once with {way_out}")
    if start.startswith(b"PK\x03\x04"):
        raise ValueError(f"{path} is a zip archive; unpack it and give the file inside")
    if start.startswith(UTF16_MARKS):
        raise ValueError(f"{path} is text in UTF-16; save it as UTF-8")
    first, _, rest = start.removeprefix(codecs.BOM_UTF8).partition(b"\n")
    header = first.split()
    headed = len(header) == 2 and all(number.isdigit() for number in header)
    lines = (rest if headed else start.removeprefix(codecs.BOM_UTF8)).split(b"\n")
    sample = [line for line in (lines[:-1] if len(start) == PEEK_BYTES else lines) if line.strip()][:PEEK_LINES]
    comma = len(_numbers(sample, True)) > len(_numbers(sample, False))
    runs = [len(_numbers([line], comma)) for line in sample]
    if headed:
        return _headed(path, int(header[1]), rest, runs, comma)
    counted = Counter(run for run in runs if run >= 2)
    if counted and runs[0] >= 2:
        most = max(counted.values())
        return _Layout(False, False, next(run for run in runs if counted.get(run) == most), comma)
    raise ValueError(
        f"{path} must start with 'words numbers' (word2vec) or a word and its numbers (GloVe), "
        f"it starts with {first[:40]!r}; give a word2vec, GloVe or .safetensors file"
    )


def _headed(path: Path, width: int, rest: bytes, runs: Sequence[int], comma: bool) -> _Layout:
    """Returns the layout of a table whose first line says that a word has so many numbers."""
    if width in runs or not rest.strip():
        return _Layout(False, True, width, comma)
    first = rest[: max(200, 4 * width)]
    in_numbers = 1 - len(first.translate(None, NUMBER_BYTES)) / len(first)
    if in_numbers > 0.5 or len(rest[:4096].translate(None, CONTROL_BYTES)) == len(rest[:4096]):
        found = f"ends in {runs[0]} numbers" if runs and runs[0] else "ends in none"
        raise ValueError(
            f"{path}, line 2: must hold a word and {width} numbers, as the first line says, and {found}; "
            "correct the first line, or write the numbers as 0.5 or 0,5 with spaces or tabs between them"
        )
    return _Layout(True, True, width)


def _start(path: Path) -> bytes:
    """Returns a file's first bytes, unpacked."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if zipped != (path.suffix == ".gz"):
        raise ValueError(f"{path} must end in .gz exactly if gzip made it; rename it")
    try:
        with _open(path) as file:
            return file.read(PEEK_BYTES)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; fetch it again") from error


def _numbers(lines: Sequence[bytes], comma: bool) -> list[bytes]:
    """Returns the numbers that lines end in; the first part of a line is always its word."""
    found = []
    for line in lines:
        for part in reversed(line.split()[1:]):
            try:
                float(_plain(part, comma))
            except ValueError:
                break
            found.append(part)
    return found


def _plain(number: bytes, comma: bool) -> bytes:
    """Returns a number with a decimal point; where decimals have commas, one with a point is none."""
    if not comma:
        return number
    return b"?" if b"." in number else re.sub(rb"^([^,]*),([^,]*)$", rb"\1.\2", number)

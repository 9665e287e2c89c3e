"""Neighbours of a name by word vectors: word2vec, GloVe or the shipped table."""

# Axes: V words of the vocabulary, D numbers of a vector.

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from gensim.models import KeyedVectors
from numpy.typing import NDArray
from safetensors import SafetensorError

from cpe.concepts import normalise
from cpe.words.table import load_table
from wording.foreign import told

PEEK_BYTES = 1 << 20
TIE_DIGITS = 12
PICKLES = (".kv", ".model", ".pkl", ".pickle", ".npy", ".pt", ".pth")


class UnknownWordError(LookupError):
    """No word of a phrase has a vector."""


@dataclass(frozen=True, eq=False)
class PhraseVector:
    """Direction of a phrase.

    Attributes:
        vector: unit length, (D,), float64.
        found: entries of the table it was made of.
        missing: words of the phrase that the table lacks.
        exact: whether the whole phrase is one entry; else the vector is the mean of its words' directions.
    """

    vector: NDArray[np.float64]
    found: tuple[str, ...]
    missing: tuple[str, ...]
    exact: bool


@dataclass(frozen=True)
class Neighbor:
    """A name near to a phrase, and the cosine between them."""

    name: str
    similarity: float


@dataclass(frozen=True, eq=False)
class Ranking:
    """Candidates in the order of their nearness to a phrase.

    Attributes:
        names: nearest first, equally near ones by name.
        similarities: the cosine of each.
        unknown: candidates without a vector, in the given order.
        phrase: the vector they were compared with.
    """

    names: tuple[str, ...]
    similarities: tuple[float, ...]
    unknown: tuple[str, ...]
    phrase: PhraseVector


class WordVectors:
    """A table of word vectors that knows phrases."""

    def __init__(self, vectors: KeyedVectors):
        """Wraps gensim's vectors; they are not changed."""
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def load(cls, path: str | Path | None = None, *, limit: int | None = None) -> "WordVectors":
        """Reads a table.

        Args:
            path: word2vec as text or binary, GloVe text, each also behind gzip, or `.safetensors` with `words` and
                `vectors`; the content tells which. None is the shipped table.
            limit: words read at most, from the start, where the frequent ones stand.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: not a table, a damaged one, or a format that can run code.
        """
        if path is None:
            return cls(_keyed(*load_table(), limit))
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file of word vectors at {path}; leave it out to use the shipped table"
            )
        if path.suffix == ".safetensors":
            try:
                return cls(_keyed(*load_table(path), limit))
            except (SafetensorError, KeyError, ValueError) as error:
                raise ValueError(
                    f"{path} must hold the tensors words and vectors ({told(error)}); write it again"
                ) from error
        binary, header = _format(path)
        try:
            if not binary:
                return cls(_keyed(*_read_text(path, header, limit), limit))
            loaded = KeyedVectors.load_word2vec_format(str(path), binary=True, limit=limit)
        except (ValueError, EOFError, OSError, MemoryError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error or type(error).__name__}; fetch it again") from error
        if not len(loaded) or not np.isfinite(loaded.vectors).all():
            raise ValueError(f"{path} holds no words, or numbers that are not finite; fetch it again")
        return cls(loaded)

    def vector(self, phrase: str) -> PhraseVector:
        """Returns the direction of a phrase: its own entry if there is one, else the mean of its words' directions.

        Entries are looked for as written, then in other capitals and with underscores or hyphens between words,
        as the GoogleNews phrases have them, then without accents.

        Raises:
            UnknownWordError: the table has none of its words.
        """
        entry = self._entry(_spellings(phrase))
        if entry is not None:
            return PhraseVector(self._direction(entry), (entry,), (), True)
        found: list[str] = []
        missing: list[str] = []
        for word in phrase.split():
            part = self._entry(_spellings(word.strip(".,;:!?\"'()")))
            parts = [part] if part else [self._entry(_spellings(piece)) for piece in re.split(r"[\W_]+", word) if piece]
            found += [piece for piece in parts if piece]
            missing += [word] if not parts or None in parts else []
        if not found:
            raise UnknownWordError(f"no vector for {phrase!r}: none of its words is among the {len(self)} of the table")
        mean = np.mean([self._direction(entry) for entry in found], axis=0)  # (D,)
        length = np.linalg.norm(mean)
        return PhraseVector(mean / length if length else mean, tuple(found), tuple(missing), False)

    def neighbors(self, phrase: str, count: int, *, exclude: Iterable[str] = ()) -> list[Neighbor]:
        """Returns the table's words nearest to a phrase, underscores turned into spaces.

        Args:
            phrase: a name.
            count: how many; fewer where the table has no more.
            exclude: names that may not appear, in any capitals or accents.

        Returns:
            Nearest first; never the phrase, its own words, or one word in two spellings.

        Raises:
            UnknownWordError: the table has none of the phrase's words.
        """
        wanted = self.vector(phrase)
        skip = {normalise(name) for name in (phrase, *wanted.found, *exclude)} | set(normalise(phrase).split()) | {""}
        similarity = self.vectors.vectors @ wanted.vector.astype(np.float32) / self._lengths  # (V,)
        chosen: list[Neighbor] = []
        for index in np.argsort(-similarity, kind="stable"):
            if len(chosen) >= count:
                break
            entry = self.vectors.index_to_key[index]
            if (key := normalise(entry)) not in skip:
                skip.add(key)
                chosen.append(Neighbor(entry.replace("_", " "), float(similarity[index])))
        return chosen

    def rank(self, phrase: str, candidates: Sequence[str]) -> Ranking:
        """Orders candidates by nearness to a phrase.

        Raises:
            UnknownWordError: the table has none of the phrase's words; unknown candidates are only listed.
        """
        wanted = self.vector(phrase)
        similarity: dict[str, float] = {}
        unknown: dict[str, None] = {}
        for name in candidates:
            try:
                similarity[name] = round(float(self.vector(name).vector @ wanted.vector), TIE_DIGITS)
            except UnknownWordError:
                unknown[name] = None
        names = sorted(similarity, key=lambda name: (-similarity[name], name))
        return Ranking(tuple(names), tuple(similarity[name] for name in names), tuple(unknown), wanted)

    @cached_property
    def _lengths(self) -> NDArray[np.float32]:
        lengths = np.linalg.norm(self.vectors.vectors, axis=1)  # (V,)
        return np.where(lengths > 0, lengths, 1).astype(np.float32)

    def _direction(self, entry: str) -> NDArray[np.float64]:
        vector = self.vectors.get_vector(entry).astype(np.float64)
        return vector / np.linalg.norm(vector)

    def _entry(self, spellings: Iterable[str]) -> str | None:
        for spelling in spellings:
            if spelling in self.vectors.key_to_index and self.vectors.get_vector(spelling).any():
                return spelling
        return None


def _spellings(phrase: str) -> Iterator[str]:
    """Yields the ways a table may write a phrase, likeliest first."""
    plain = normalise(phrase)
    for words in (phrase.split(), plain.split()):
        for joint in (" ", "_", "-") if len(words) > 1 else (" ",):
            text = joint.join(words)
            yield from (text, text.lower(), joint.join(word[:1].upper() + word[1:] for word in words))
            yield from (joint.join(word.capitalize() for word in words), text.capitalize(), text.upper())


def _read_text(path: Path, header: bool, limit: int | None) -> tuple[list[str], NDArray[np.float32]]:
    """Returns the words and vectors of a text table.

    gensim's reader of such files spreads a short row over the whole vector, stops at words with spaces (GloVe 840B
    has some) and names no line.
    """
    rows: dict[str, NDArray[np.float32]] = {}
    with _open(path) as file:
        promised, width = [int(number) for number in file.readline().split()] if header else (None, 0)
        if not header:
            width = len(file.readline().split()) - 1
            file.seek(0)
        read = 0
        for number, line in enumerate(file, 2 if header else 1):
            if len(rows) == limit or read == promised or not line.strip():
                break
            word, *numbers = line.decode().rstrip(" \r\n").rsplit(" ", width)
            if len(numbers) != width:
                raise ValueError(f"line {number} has {len(numbers)} numbers, not {width}")
            try:
                rows.setdefault(word, np.array(numbers, dtype=np.float32))
            except ValueError as error:
                raise ValueError(f"line {number} of {word!r}: {error}") from None
            read += 1
    if promised is not None and len(rows) != limit and read < promised:
        raise ValueError(f"it holds {read} words of {promised}")
    return list(rows), np.stack(list(rows.values())) if rows else np.zeros((0, width), np.float32)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _keyed(words: Sequence[str], vectors: NDArray[np.float32], limit: int | None) -> KeyedVectors:
    if vectors.ndim != 2 or len(words) != len(vectors) or not len(words):
        raise ValueError(f"got {len(words)} words and vectors of shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        word = words[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise ValueError(f"the vector of {word!r} is not finite")
    keyed = KeyedVectors(vectors.shape[1])
    keyed.add_vectors(list(words[:limit]), vectors[:limit])
    return keyed


def _format(path: Path) -> tuple[bool, bool]:
    """Returns whether a table is binary and whether it has a header."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if zipped != (path.suffix == ".gz"):
        raise ValueError(f"{path} must end in .gz exactly if gzip made it; rename it")
    try:
        with _open(path) as file:
            start = file.read(PEEK_BYTES)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {told(error)}; fetch it again") from error
    if Path(path.name.removesuffix(".gz")).suffix in PICKLES or start.startswith(b"\x80"):
        way_out = "KeyedVectors.load(…).save_word2vec_format('vectors.bin', binary=True)"
        raise ValueError(f"{path} is a pickle, which can run code; where you trust it, convert it once with {way_out}")
    if start.startswith(b"PK\x03\x04"):
        raise ValueError(f"{path} is a zip archive; unpack it and give the file inside")
    first, _, rest = start.partition(b"\n")
    header = first.split()
    if len(header) == 2 and all(number.isdigit() for number in header):
        return not _is_row(rest.partition(b"\n")[0], int(header[1])), True
    if len(header) >= 3 and _is_row(first, len(header) - 1):
        return False, False
    raise ValueError(
        f"{path} must start with 'words numbers' (word2vec) or a word and its numbers (GloVe), "
        f"it starts with {first[:40]!r}; give a word2vec, GloVe or .safetensors file"
    )


def _is_row(line: bytes, width: int) -> bool:
    try:
        numbers = [float(number) for number in line.decode().split()[1:]]
    except ValueError:
        return False
    return len(numbers) == width

"""Neighbours of a name by word vectors: word2vec, GloVe or the shipped table."""

# Axes: V words of the vocabulary, D numbers of a vector.

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from gensim.models import KeyedVectors
from numpy.typing import NDArray

from cpe.terms.names import normalise
from cpe.words.reading import keyed, read_vectors
from cpe.words.table import load_table

TIE_DIGITS = 12


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
            path: a file that `cpe.words.reading` reads: word2vec, GloVe or `.safetensors`. None is the shipped table.
            limit: words read at most, from the start, where the frequent ones stand.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: not a table, a damaged one, text in another encoding, or a format that can run code.
        """
        if path is None:
            return cls(keyed(*load_table(), limit))
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file of word vectors at {path}; leave it out to use the shipped table"
            )
        return cls(read_vectors(path, limit))

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

"""Word vectors: formats, phrases and neighbours."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from safetensors.numpy import save_file

from cpe.lists.schema import normalise
from cpe.words.by_embedding import rank_by_embedding
from cpe.words.neighbors import UnknownWordError, WordVectors

WORDS = ("cat", "dog", "Tiger", "New_York", "rose", "beyonce", "red", "zero", "lion", "TIGER")


@pytest.fixture(scope="module")
def shipped() -> WordVectors:
    return WordVectors.load()


@pytest.fixture(scope="module")
def small() -> WordVectors:
    keyed = KeyedVectors(6)
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 6)).astype(np.float32)
    vectors[WORDS.index("zero")] = 0
    keyed.add_vectors(list(WORDS), vectors)
    return WordVectors(keyed)


def glove_text(table: KeyedVectors) -> str:
    return "".join(f"{word} {' '.join(map(repr, table[word].tolist()))}\n" for word in table.index_to_key)


@pytest.mark.parametrize(
    "name", ["v.txt", "v.bin", "v.txt.gz", "v.bin.gz", "glove.txt", "glove.txt.gz", "v.safetensors"]
)
def test_every_format_gives_the_same_table(small: WordVectors, tmp_path: Path, name: str) -> None:
    path, table = tmp_path / name, small.vectors
    if name.startswith("glove"):
        data = glove_text(table).encode()
        path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    elif name.endswith(".safetensors"):
        words = np.frombuffer("\n".join(WORDS).encode(), np.uint8)
        save_file({"words": words, "vectors": table.vectors}, path)
    else:
        table.save_word2vec_format(str(path), binary=".bin" in name)
    loaded = WordVectors.load(path)
    assert loaded.vectors.index_to_key == list(WORDS)
    np.testing.assert_allclose(loaded.vectors.vectors, table.vectors, rtol=1e-6)
    assert len(WordVectors.load(path, limit=3)) == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("v.kv", b"\x80\x04\x95", "is a pickle, which can run code.*save_word2vec_format"),
        ("v.txt", b"\x80\x04\x95", "is a pickle"),
        ("v.zip", b"PK\x03\x04abc", "zip archive; unpack it"),
        ("v.txt", b"", "must start with"),
        ("v.txt", b"hello world, this is text\n", "must start with"),
        ("v.txt", b"3 2\ncat 1 2\ndog 3 4\n", "2 words of 3"),
        ("v.txt", b"cat 1 2\ndog 3 x\n", "line 2 of 'dog'"),
        ("v.txt", b"cat 1 2\ndog 3\n", "line 2 has 1 numbers, not 2"),
        ("v.txt", b"0 2\n", "holds no words"),
        ("v.txt", b"cat 1 nan\n", "not finite"),
        ("v.bin", b"2 2\ncat \x00\x00", "is damaged"),
        ("v.txt", gzip.compress(b"cat 1 2\n", mtime=0), "must end in .gz"),
        ("v.txt.gz", b"cat 1 2\n", "must end in .gz"),
        ("v.txt.gz", gzip.compress(b"cat 1 2\n" * 50, mtime=0)[:-12], "is damaged"),
        ("v.safetensors", b"12345678{}", "must hold the tensors words and vectors"),
    ],
)
def test_what_is_no_table_is_refused_with_its_path(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says) as caught:
        WordVectors.load(path)
    assert str(path) in str(caught.value)


HEADED = "3 2\nNew York 0.5 -1\n1 2 0.25\ncafé 3e-1 4\n"
HEADLESS = HEADED.partition("\n")[2]


@pytest.mark.parametrize("text", [HEADED, HEADLESS])
@pytest.mark.parametrize("ending", ["\n", "\r\n", " \n"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("between", [" ", "\t", "  "])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_text_is_read_however_it_was_saved(
    tmp_path: Path, text: str, ending: str, decimal: str, between: str, mark: str
) -> None:
    spaced = text.replace("New York", "New_York").replace(" ", between).replace("New_York", "New York")
    path = tmp_path / "v.txt"
    path.write_bytes((mark + spaced.replace(".", decimal).replace("\n", ending)).encode())
    table = WordVectors.load(path).vectors
    assert table.index_to_key == ["New York", "1", "café"]
    np.testing.assert_allclose(table.vectors, [[0.5, -1], [2, 0.25], [0.3, 4]], rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            HEADED.replace("3 2", "3 3"),
            "line 2: must hold a word and 3 numbers, .* ends in 2 numbers; correct the first",
        ),
        ("2 2\nun café zéro un\ndeux trois quatre\n", "line 2: must hold a word and 2 numbers, .* ends in none"),
        ("2 2\ncat 0.5;1\ndog 1;2\n", "line 2: must hold a word and 2 numbers"),
        ("2 2\ncat 0,5 1\ndog 1.5 2\n", r"line 2 of 'cat' holds what is no number \(decimals have points\)"),
        ("3 2\ncat 0,5 1\ndog 1.5 2\na 0,1 2,5\n", r"line 3 of 'dog' holds what is no number \(decimals have commas\)"),
        ("2 2\ncat 1.5 1\ndog 0,5 2\n", "line 3 of 'dog' holds what is no number"),
        (HEADED.encode("latin-1"), "line 4: holds a word that is not UTF-8 text; save the table as UTF-8"),
        (HEADLESS.encode("latin-1"), "line 3: holds a word that is not UTF-8 text; save the table as UTF-8"),
        (HEADED.encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        ("1 4\nthe\x1f; 0,1;0,2;0,3;0,4\n", "line 2: must hold a word and 4 numbers"),
    ],
)
def test_text_is_never_taken_for_binary_and_the_advice_is_true(
    tmp_path: Path, content: str | bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_for_binary(*_: object, **__: object) -> None:
        raise AssertionError("read as binary")

    monkeypatch.setattr(KeyedVectors, "load_word2vec_format", taken_for_binary)
    path = tmp_path / "v.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=says):
        WordVectors.load(path)


@pytest.mark.parametrize("width", [2, 3, 50, 300])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_binary_tables_of_any_width_are_read_as_such(tmp_path: Path, width: int, scale: float) -> None:
    keyed = KeyedVectors(width)
    vectors = (scale * np.random.default_rng(width).normal(size=(40, width))).astype(np.float32)
    keyed.add_vectors([f"wörd{n}" for n in range(40)], vectors)
    keyed.save_word2vec_format(str(tmp_path / "v.bin"), binary=True)
    np.testing.assert_array_equal(WordVectors.load(tmp_path / "v.bin").vectors.vectors, vectors)


def test_words_of_a_text_table_may_hold_spaces_and_repeat(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("cat 1 2\n. . 3 4\ncat 5 6\n")
    table = WordVectors.load(path).vectors
    assert table.index_to_key == ["cat", ". ."]
    assert table.vectors.tolist() == [[1, 2], [3, 4]]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file of word vectors at .*v\.bin"):
        WordVectors.load(tmp_path / "v.bin")


@pytest.mark.parametrize(
    ("phrase", "found", "missing", "exact"),
    [
        ("cat", ("cat",), (), True),
        ("Cat", ("cat",), (), True),
        ("tiger", ("Tiger",), (), True),
        ("TIGER", ("TIGER",), (), True),
        ("new york", ("New_York",), (), True),
        ("New-York", ("New_York",), (), True),
        ("Beyoncé", ("beyonce",), (), True),
        ("red rose", ("red", "rose"), (), False),
        ("a red-rose, cat", ("red", "rose", "cat"), ("a",), False),
        ("zero cat", ("cat",), ("zero",), False),
    ],
)
def test_a_phrase_is_its_entry_or_the_mean_of_its_words(
    small: WordVectors, phrase: str, found: tuple[str, ...], missing: tuple[str, ...], exact: bool
) -> None:
    vector = small.vector(phrase)
    assert (vector.found, vector.missing, vector.exact) == (found, missing, exact)
    rows = np.stack([small.vectors[word].astype(np.float64) for word in found])
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(vector.vector, mean / np.linalg.norm(mean), rtol=1e-12)


@pytest.mark.parametrize("phrase", ["qwxyz", "", "...", "zero", "qw xyz-abc"])
def test_a_phrase_of_unknown_words_is_named(small: WordVectors, phrase: str) -> None:
    with pytest.raises(UnknownWordError, match="no vector for"):
        small.vector(phrase)
    with pytest.raises(LookupError):
        small.neighbors(phrase, 3)


def test_neighbours_agree_with_a_plain_loop(shipped: WordVectors) -> None:
    table = shipped.vectors
    wanted = table["tiger"].astype(np.float64)
    cosines = {
        word: float(table[word] @ wanted / np.linalg.norm(table[word]) / np.linalg.norm(wanted))
        for word in table.index_to_key[:30_000]
        if normalise(word) not in ("tiger", "")
    }
    plain = sorted(cosines, key=lambda word: -cosines[word])[:5]
    nearest = shipped.neighbors("tiger", 5)
    assert [neighbor.name for neighbor in nearest] == plain
    np.testing.assert_allclose(
        [neighbor.similarity for neighbor in nearest], [cosines[word] for word in plain], rtol=1e-5
    )


def test_neighbours_are_never_the_phrase_its_words_or_excluded_names(shipped: WordVectors, small: WordVectors) -> None:
    free = [neighbor.name for neighbor in shipped.neighbors("red rose", 20)]
    assert len(free) == 20
    assert not {"red", "rose"} & set(free)
    without = [neighbor.name for neighbor in shipped.neighbors("red rose", 20, exclude=[free[0].upper(), free[3]])]
    assert without[:18] == [name for name in free if name not in (free[0], free[3])]
    names = [neighbor.name for neighbor in small.neighbors("tiger", 100)]
    assert sorted(names) == sorted({"cat", "dog", "New York", "rose", "beyonce", "red", "zero", "lion"})
    assert small.neighbors("tiger", 0) == []


def test_ranking_orders_known_candidates_and_lists_the_others(shipped: WordVectors) -> None:
    ranking = shipped.rank("tiger", ["guitar", "lion", "qwxyzzy", "snow leopard", "lion", "Lion"])
    assert set(ranking.names) == {"guitar", "lion", "snow leopard", "Lion"}
    assert ranking.names[-1] == "guitar"
    assert ranking.names.index("lion") == ranking.names.index("Lion") + 1  # equally near: by name
    assert list(ranking.similarities) == sorted(ranking.similarities, reverse=True)
    assert ranking.unknown == ("qwxyzzy",)
    assert ranking.phrase.exact
    backwards = shipped.rank("tiger", ["Lion", "lion", "snow leopard", "qwxyzzy", "guitar"])
    assert backwards.names == ranking.names


def test_ranking_by_text_embedding_is_by_cosine_then_by_name() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(5, 7, generator=generator)
    away = {name: torch.randn(5, 7, generator=generator) for name in "abcdef"}
    cosines = {
        name: float(torch.nn.functional.cosine_similarity(target.flatten(), other.flatten(), dim=0))
        for name, other in away.items()
    }
    expected = sorted(away, key=lambda name: -cosines[name])
    ranked = rank_by_embedding({"one": target, "opposite": -target}, away)
    assert ranked == {"one": expected, "opposite": expected[::-1]}
    near = {"z": target * 3, "y": target, "x": -target, "h": target.half()}
    order = rank_by_embedding({"one": target}, near)["one"]
    assert order[:2] == ["y", "z"]
    assert order[-1] == "x"
    assert rank_by_embedding({"one": target}, {}) == {"one": []}
    assert rank_by_embedding({}, away) == {}


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (torch.ones(2, 4), r"embedding of 'cat' must have the target's shape \(2, 3\), got \(2, 4\)"),
        (torch.zeros(2, 3), "embedding of 'cat' must be finite and not all zeros"),
        (torch.full((2, 3), torch.nan), "embedding of 'cat' must be finite"),
    ],
)
def test_embeddings_that_cannot_be_compared_are_named(candidate: torch.Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        rank_by_embedding({"dog": torch.ones(2, 3)}, {"cat": candidate})

"""Indexes of artifacts, damaged or forged: read as they were written, or refused before a file is touched."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import artifacts.stores.index
from artifacts.hashing import content_hash, file_hash
from artifacts.stores.folder import FolderStore
from artifacts.stores.index import (
    INDEX_NAME,
    LARGEST_INDEX_BYTES,
    MANIFEST_NAME,
    SHA256_PATTERN,
    FileEntry,
    Index,
    build_index,
    list_files,
    parse_index,
)
from artifacts.stores.store import StoreError
from helpers.fuzz import DEEP, JSON, SHORT, cases
from wording.canonical import canonical_json

KEY = "gates/3f2a"
SHA = "0" * 64
GOOD = Index({MANIFEST_NAME: FileEntry(SHA, 2), "deep/ä file": FileEntry("a" * 64, 0)}, f".data-{'1' * 32}").dump()
EVIL_NAMES = [
    "", ".", "..", "../x", "./a", "a/../../x", "a//b", "a/", "/x", "//x", "/dev/zero", "/proc/self/environ",
    "a\\b", "..\\x", "C:\\x", "a\x00b", "a\nb", "\x1b[2J", "\u202ex", "\ud800", "x" * 5000, f"{'a/' * 300}b",
    INDEX_NAME, "INDEX.json", f"{INDEX_NAME}/x", "MANIFEST.JSON", "manife\u017ft.json", f"{MANIFEST_NAME}/x",
]  # fmt: skip
PARTS = st.text(st.sampled_from("abcXY019-_. äßñ☃漢"), min_size=1, max_size=6).filter(lambda part: part.strip(". "))
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
ENTRIES = st.fixed_dictionaries(
    {
        "sha256": st.sampled_from([SHA, "f" * 64, "F" * 64, "0" * 63, "", int("1" * 64), None, [SHA]]),
        "size": st.sampled_from([0, 1, 2, 2**63, 10**30, -1, True, 1.0, "2", None]),
    }
)
MANIFEST = st.just({"sha256": SHA, "size": 2})


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda number: good if number else bad)


def reading(text: bytes) -> Index | None:
    """Reads an index; None where it was refused as it should be."""
    message = None
    try:
        index = parse_index(text)
    except ValueError as error:
        message = str(error)
    if message is not None:
        assert len(message) < SHORT
        assert message.isprintable()
        return None
    for name, entry in index.files.items():
        assert (Path("/store/gate") / name).resolve().is_relative_to("/store/gate")
        assert not {"", ".", ".."}.intersection(name.split("/"))
        assert name.isprintable()
        assert name.casefold() != INDEX_NAME
        assert type(entry.size) is int
        assert entry.size >= 0
        assert SHA256_PATTERN.fullmatch(entry.sha256)
    assert MANIFEST_NAME in index.files
    assert len({name.casefold() for name in index.files}) == len(index.files)
    assert index.dump() == text
    return index


def forged(body: dict[str, Any]) -> bytes:
    """Writes an index whose own hash is right, whatever it says."""
    try:
        return canonical_json(body | {"hash": content_hash(body)})
    except ValueError:  # nothing that a hash can be of
        return json.dumps(body | {"hash": SHA}).encode()


@cases(200)
@given(
    names=st.lists(NAMES, max_size=5, unique_by=lambda name: name.split("/")[0].casefold()), size=st.integers(0, 2**63)
)
def test_an_index_comes_back_as_written(names: list[str], size: int) -> None:
    index = Index({MANIFEST_NAME: FileEntry(SHA, 2)} | {name: FileEntry("b" * 64, size) for name in names})
    assert reading(index.dump()) == index


@cases(600)
@given(place=st.integers(0, len(GOOD) - 1), length=st.integers(0, 2), new=st.binary(max_size=2))
def test_an_index_with_other_bytes_is_refused(place: int, length: int, new: bytes) -> None:
    assert reading(GOOD) is not None
    text = GOOD[:place] + new + GOOD[place + length :]
    assert text == GOOD or reading(text) is None
    assert reading(GOOD[:place]) is None


@cases(400)
@given(text=st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_index_is_refused(text: bytes) -> None:
    assert reading(text) is None


@pytest.mark.parametrize("start", [DEEP, '{"files":' * 100_000, '{"hash":"","data":"","format":1,"files":' + DEEP])
def test_a_deeply_nested_index_is_refused(start: str) -> None:
    assert reading(start.encode()) is None


def test_an_index_that_says_something_twice_or_in_another_form_is_refused() -> None:
    text, body = GOOD.decode(), json.loads(GOOD)
    for other in (
        text.replace('{"data"', '{"data":"../x","data"'),
        text.replace('"size":2', '"size":3,"size":2'),
        json.dumps(body, indent=1),
        json.dumps(body, separators=(",", ":")),
        text + "\n",
    ):
        assert json.loads(other) == body
        assert reading(other.encode()) is None
    assert reading(text.encode("utf-16")) is None


def test_forged_indexes_are_refused_or_stay_inside() -> None:
    read = []

    @cases(1000)
    @given(
        files=st.dictionaries(mostly(NAMES, st.sampled_from(EVIL_NAMES)), mostly(MANIFEST, ENTRIES | JSON), max_size=3),
        manifest=mostly(st.fixed_dictionaries({MANIFEST_NAME: MANIFEST}), st.just({})),
        data=mostly(
            st.sampled_from(["", f".data-{'1' * 32}"]),
            st.sampled_from(["..", "/", ".data-", f".data-{'1' * 32}/..", "x", None, 1, [], "\ud800"]),
        ),
        more=mostly(st.just({}), st.dictionaries(st.sampled_from(["format", "files", "x"]), JSON, max_size=1)),
    )
    def check(files: dict[str, Any], manifest: dict[str, Any], data: Any, more: dict[str, Any]) -> None:
        read.append(reading(forged({"files": files | manifest, "data": data, "format": 1} | more)) is not None)

    check()
    assert 50 < sum(read) < len(read) - 50


@pytest.mark.parametrize("name", EVIL_NAMES, ids=lambda name: ascii(name)[:30])
def test_no_evil_name_is_read(name: str) -> None:
    entry = {"sha256": SHA, "size": 2}
    assert reading(forged({"files": {MANIFEST_NAME: entry, "x.y": entry}, "data": "", "format": 1})) is not None
    assert reading(forged({"files": {MANIFEST_NAME: entry, name: entry}, "data": "", "format": 1})) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"size": True},
        {"size": 2.0},
        {"size": -1},
        {"size": "2"},
        {"sha256": "F" * 64},
        {"sha256": int("1" * 64)},
        {"x": 1},
    ],
    ids=str,
)
def test_no_entry_of_another_kind_is_read(changes: dict[str, Any]) -> None:
    entry = {"sha256": SHA, "size": 2}
    assert reading(forged({"files": {MANIFEST_NAME: entry}, "data": "", "format": 1})) is not None
    assert reading(forged({"files": {MANIFEST_NAME: entry | changes}, "data": "", "format": 1})) is None


@pytest.mark.parametrize(
    "names", [("a\\b",), ("a\nb",), ("Café", "Cafe\u0301"), ("A", "a"), ("INDEX.json",), ("MANIFEST.json",)]
)
def test_what_would_not_be_read_again_is_not_stored(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in (MANIFEST_NAME, *names):
        (tmp_path / "gate").mkdir(exist_ok=True)
        (tmp_path / "gate" / name).write_text("{}")
    with pytest.raises(ValueError, match="file name"):
        FolderStore(tmp_path / "store").put(KEY, tmp_path / "gate")
    assert not (tmp_path / "store").exists()


def test_a_forged_artifact_leaves_the_disk_as_it_was(tmp_path: Path) -> None:
    store, manifest = FolderStore(tmp_path / "store"), b"{}"
    folder = tmp_path / "store" / KEY
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_bytes(manifest)
    (tmp_path / "secret").write_bytes(b"my only copy")
    own = {MANIFEST_NAME: {"sha256": file_hash(folder / MANIFEST_NAME), "size": 2}}
    secret = {"sha256": file_hash(tmp_path / "secret"), "size": 12}
    there = sorted(tmp_path.rglob("*"))

    @cases(200)
    @given(
        name=st.sampled_from([*EVIL_NAMES, "../../../secret", str(tmp_path / "secret"), "a/secret", MANIFEST_NAME]),
        data=st.sampled_from(["", "", "../../..", "..", f".data-{'1' * 32}", "/"]),
    )
    def check(name: str, data: str) -> None:
        (folder / INDEX_NAME).write_bytes(forged({"files": {name: secret} | own, "data": data, "format": 1}))
        good = (name, data) == (MANIFEST_NAME, "")
        message = None
        try:
            store.fetch(KEY, tmp_path / "new" / "copy")
        except StoreError as error:
            message = str(error)
        (folder / INDEX_NAME).unlink()
        if good:
            assert (tmp_path / "new" / "copy" / MANIFEST_NAME).read_bytes() == manifest
            for path in (*(tmp_path / "new" / "copy").iterdir(), tmp_path / "new" / "copy"):
                path.rmdir() if path.is_dir() else path.unlink()
        assert good or (message is not None and "is damaged" in message and len(message) < SHORT + len(str(tmp_path)))
        if (tmp_path / "new").exists():
            (tmp_path / "new").rmdir()  # nothing else is in it
        assert sorted(tmp_path.rglob("*")) == there

    check()


def test_an_index_without_end_is_not_read(tmp_path: Path) -> None:
    assert reading(b" " * (LARGEST_INDEX_BYTES + 1)) is None
    store = FolderStore(tmp_path / "store")
    (tmp_path / "store" / KEY).mkdir(parents=True)
    (tmp_path / "store" / KEY / INDEX_NAME).touch()
    with (tmp_path / "store" / KEY / INDEX_NAME).open("wb") as file:
        file.truncate(2**33)
    tracemalloc.start()
    with pytest.raises(StoreError, match=r"index\.json has more than 8,388,608 bytes"):
        store.fetch(KEY, tmp_path / "copy")
    assert tracemalloc.get_traced_memory()[1] < 3 * LARGEST_INDEX_BYTES
    tracemalloc.stop()


def test_an_artifact_whose_index_could_not_be_read_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    for name in (MANIFEST_NAME, "a", "b"):
        (gate / name).write_text("{}")
    size = len(build_index(list_files(gate)).dump())
    monkeypatch.setattr(artifacts.stores.index, "LARGEST_INDEX_BYTES", size)
    assert FolderStore(tmp_path / "store").put(KEY, gate)
    monkeypatch.setattr(artifacts.stores.index, "LARGEST_INDEX_BYTES", size - 1)
    with pytest.raises(ValueError, match="folder must hold fewer files"):
        FolderStore(tmp_path / "other").put(KEY, gate)
    assert not list((tmp_path / "other").rglob("*.json"))

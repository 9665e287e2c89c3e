"""Parquet tables from anywhere: read as they were written, or refused before memory is taken."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import artifacts.tables
from artifacts.tables import GROUP_ROWS, IMAGES, SCORES, Row, _decoded, iter_rows, read_table, write_table
from helpers.fuzz import SHORT, cases

MEBIBYTE = 1 << 20
KINDS = {pa.string(): str, pa.int64(): int, pa.float64(): float}


def row(number: int = 0, **changes: Any) -> Row:
    texts = {field.name: f"{field.name} {number % 3}" for field in SCORES if field.type == pa.string()}
    return texts | {"value": number / 7, "low": None, "high": 0.5, "count": number, "bundle": None} | changes


def image(path: str) -> Row:
    texts = {field.name: "x" for field in IMAGES if field.type == pa.string()}
    return texts | {"seed": 1, "guidance_scale": 7.5, "path": path}


ROWS = [row(number) for number in range(20)]


def read(path: Path, data: bytes) -> list[Row] | None:
    """Reads a table; None where it was refused as it should be."""
    path.write_bytes(data)
    message = None
    try:
        rows = read_table(path, SCORES)
    except ValueError as error:
        message = str(error)
    if message is not None:
        assert message.startswith(str(path))
        assert len(message) < 3 * SHORT + len(str(path))
        return None
    for each in rows:
        assert list(each) == SCORES.names
        for field in SCORES:
            assert type(each[field.name]) is KINDS[field.type] or (each[field.name] is None and field.nullable)
    return rows


def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, length, new in changes:
        data = data[:place] + new + data[place + length :]
    return data


def edits(size: int) -> Any:
    footer = st.integers(size // 3, size - 1)  # most of a small table is its footer
    place = st.integers(0, size - 1) | footer | footer
    return st.lists(st.tuples(place, st.integers(0, 2), st.binary(max_size=2)), min_size=1, max_size=3)


def test_a_table_with_other_bytes_is_read_rightly_or_refused(tmp_path: Path) -> None:
    good = write_table(tmp_path / "scores.parquet", ROWS, SCORES).read_bytes()
    assert read(tmp_path / "scores.parquet", good) == ROWS
    refused = []

    @cases(700)
    @given(changes=edits(len(good)))
    def check(changes: list[tuple[int, int, bytes]]) -> None:
        found = read(tmp_path / "scores.parquet", changed(good, changes))
        assert found in (None, ROWS)
        refused.append(found is None)

    check()
    assert sum(refused) > len(refused) / 2


def test_a_table_without_checksums_is_read_or_refused_and_nothing_breaks(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS, schema=SCORES), path, compression="none")
    good = path.read_bytes()
    assert read(path, good) == ROWS

    @cases(700)
    @given(changes=edits(len(good)))
    def check(changes: list[tuple[int, int, bytes]]) -> None:
        read(path, changed(good, changes))

    check()


@cases(150)
@given(data=st.binary(max_size=60) | st.binary(max_size=40).map(lambda middle: b"PAR1" + middle + b"PAR1"))
def test_what_is_no_table_is_refused(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path / "scores.parquet", data) is None


def coded(rows: int, text: str, **options: Any) -> pa.Table:
    """Makes a table of SCORES that holds one text once and means it in every row."""
    columns = []
    for field in SCORES:
        if field.type == pa.string():
            columns.append(pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text])))
        else:
            columns.append(pa.array([0] * rows, field.type))
    fields = [pa.field(field.name, column.type, field.nullable) for field, column in zip(SCORES, columns, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


@pytest.mark.parametrize(("rows", "letters"), [(GROUP_ROWS, MEBIBYTE), (GROUP_ROWS + 1, 1), (40, 10 * MEBIBYTE)])
def test_a_small_file_of_much_text_is_refused_before_it_is_decoded(tmp_path: Path, rows: int, letters: int) -> None:
    path = tmp_path / "scores.parquet"
    options: dict[str, Any] = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 2**30}
    pq.write_table(coded(GROUP_ROWS, "x"), path, **options)
    assert len(read_table(path, SCORES)) == GROUP_ROWS
    pq.write_table(coded(rows, "x" * letters), path, **options)
    assert path.stat().st_size < MEBIBYTE
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(ValueError, match="is damaged or not a Parquet table"):
        read_table(path, SCORES)
    with pytest.raises(ValueError, match="is damaged or not a Parquet table"):
        list(iter_rows(path, SCORES, batch=256))
    assert pa.default_memory_pool().max_memory() - before < 300 * MEBIBYTE


def test_a_group_that_claims_more_bytes_than_may_be_held_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(tmp_path / "scores.parquet", ROWS, SCORES)
    claimed = pq.ParquetFile(path).metadata.row_group(0).total_byte_size
    monkeypatch.setattr(artifacts.tables, "LARGEST_GROUP_BYTES", claimed - 1)
    with pytest.raises(ValueError, match="is damaged"):
        iter_rows(path, SCORES)


def test_more_text_than_would_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts.tables, "LARGEST_GROUP_BYTES", 10_000)
    path = write_table(tmp_path / "scores.parquet", ROWS, SCORES)
    assert read_table(path, SCORES) == ROWS
    with pytest.raises(ValueError, match=r"rows\[0\] to rows\[1\] must have at most 10,000 bytes together"):
        write_table(path, [row(), row(group="x" * 10_000)], SCORES)
    assert read_table(path, SCORES) == ROWS


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "a/../../x", "a\\b", "", "\u202ex", json.dumps("\0")[1:-1]]
)
def test_a_table_names_no_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / "images.parquet", [image("000000.png")], IMAGES)
    assert read_table(path, IMAGES) == [image("000000.png")]
    with pytest.raises(ValueError, match="must be a plain relative path"):
        write_table(path, [image(name)], IMAGES)
    pq.write_table(pa.Table.from_pylist([image(name)], schema=IMAGES), path)
    with pytest.raises(ValueError, match=r"images\.parquet must name files beside it"):
        read_table(path, IMAGES)


def test_a_footer_of_much_text_is_refused(tmp_path: Path) -> None:
    for letters, refused in ((1000, False), (2 * MEBIBYTE, True)):
        noted = SCORES.with_metadata({"note": "x" * letters})
        pq.write_table(pa.Table.from_pylist(ROWS, schema=noted), tmp_path / "noted.parquet")
        assert (read(tmp_path / "scores.parquet", (tmp_path / "noted.parquet").read_bytes()) is None) is refused


def test_texts_that_a_dictionary_lacks_are_refused() -> None:
    for place in (1, -1, 2**31 - 1):
        column = pa.DictionaryArray.from_arrays(pa.array([0, place], pa.int32()), pa.array(["x"]), safe=False)
        with pytest.raises((pa.ArrowException, ValueError)):
            _decoded(pa.RecordBatch.from_arrays([column], names=["metric"]))

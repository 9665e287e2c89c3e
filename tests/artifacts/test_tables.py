"""Tables come back as they were written, in their schema, or not at all."""

import errno
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts.tables import IMAGES, PICTURES, SCORES, iter_rows, read_table, write_table


def picture(number: int = 0, **changes: Any) -> dict[str, Any]:
    row = {
        "picture_id": f"erased-{number}",
        "prompt_id": f"erased-{number}",
        "prompt": "a portrait of a tiger, ürgent / “quoted”",
        "concept": "tiger",
        "role": "erased",
        "set": "erased",
        "domain": "noun",
        "template": number,
        "seed": 2**40 + number,
        "phase": "after",
        "shard": "3f2a",
        "path": f"{number}.png",
        "recognised": None,
        "profile": "small",
        "base_model": "small@main",
        "bundle": None,
    }
    return row | changes


def image(number: int = 0) -> dict[str, Any]:
    return {
        "path": f"{number}.png",
        "prompt": "a tiger",
        "seed": 2**40 + number,
        "guidance_scale": 7.5,
        "negative_prompt": "",
        "base_model": "small@main",
        "bundle": None,
        "sha256": "0" * 64,
    }


def score(value: float, low: float | None, count: int) -> dict[str, Any]:
    return {
        "metric": "accuracy",
        "phase": "before",
        "role": "kept",
        "group": "all",
        "value": value,
        "low": low,
        "high": None,
        "count": count,
        "unit": "%",
        "profile": "small",
        "base_model": "small@main",
        "bundle": "3f2a",
    }


@pytest.mark.parametrize(
    ("rows", "schema"),
    [
        ([picture(0), picture(1, role="kept", concept=None, recognised="cat")], PICTURES),
        ([image(0), image(1)], IMAGES),
        ([score(0.1, None, 3)], SCORES),
        ([], SCORES),
    ],
)
def test_rows_come_back_as_written(tmp_path: Path, rows: list[dict[str, Any]], schema: Any) -> None:
    path = write_table(tmp_path / "new" / "folder" / "rows.parquet", rows, schema)
    assert read_table(path, schema) == rows
    assert list(iter_rows(path, schema, batch=1)) == rows
    assert [each.name for each in path.parent.iterdir()] == ["rows.parquet"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(value=st.floats(allow_nan=False), low=st.none() | st.floats(allow_nan=False), count=st.integers(0, 2**62))
def test_numbers_come_back_exactly(tmp_path: Path, value: float, low: float | None, count: int) -> None:
    path = write_table(tmp_path / "scores.parquet", [score(value, low, count)], SCORES)
    assert read_table(path, SCORES) == [score(value, low, count)]


def test_a_value_that_is_not_a_number_stays_one(tmp_path: Path) -> None:
    path = write_table(tmp_path / "scores.parquet", [score(math.nan, None, 0)], SCORES)
    assert math.isnan(read_table(path, SCORES)[0]["value"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"promt": "x"}, r"rows\[1\] must have exactly the columns picture_id.*; missing: none; unknown: promt"),
        ({"template": "first"}, r"rows\[1\] must have template as int64, got 'first' \(str\)"),
        ({"template": 1.5}, r"rows\[1\] must have template as int64, got 1.5"),
        ({"template": True}, r"rows\[1\] must have template as int64, got True"),
        ({"prompt": 7}, r"rows\[1\] must have prompt as string, got 7"),
        ({"prompt": b"x"}, r"rows\[1\] must have prompt as string, got b'x' \(bytes\)"),
        ({"template": 2**63}, r"rows\[1\] must have template as int64, got 9223372036854775808"),
        ({"prompt": None}, r"rows\[1\] must have a value for prompt, got None"),
        ({"role": "Erased"}, r"rows\[1\] must have role erased or kept or control, got 'Erased'"),
    ],
)
def test_a_wrong_row_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_table(tmp_path / "pictures.parquet", [picture(0), picture(1, **changes)], PICTURES)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_column_is_refused_even_if_it_may_be_empty(tmp_path: Path) -> None:
    row = picture()
    del row["bundle"]
    with pytest.raises(ValueError, match="missing: bundle; unknown: none"):
        write_table(tmp_path / "pictures.parquet", [row], PICTURES)


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "pictures.parquet", [picture()], PICTURES)
    with pytest.raises(ValueError, match=r"missing guidance_scale.*; unknown picture_id.*write it again"):
        read_table(path, IMAGES)
    pq.write_table(pa.table({name: ["1"] for name in PICTURES.names}), path)
    with pytest.raises(ValueError, match="template is string instead of int64 not null"):
        iter_rows(path, PICTURES)


def test_a_damaged_table_is_refused_or_harmless_but_never_read_wrongly(tmp_path: Path) -> None:
    rows = [score(each / 7, None, each) for each in range(50)]
    path = write_table(tmp_path / "scores.parquet", rows, SCORES)
    data = path.read_bytes()
    refused = 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
        try:
            assert read_table(path, SCORES) == rows  # a bit of the statistics, which are not read
        except ValueError:
            refused += 1
    assert refused > len(data) / 7 / 2


def test_a_shortened_table_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "scores.parquet", [score(each / 7, None, each) for each in range(50)], SCORES)
    data = path.read_bytes()
    for size in (0, 3, 100, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="is damaged or not a Parquet table; delete it and run"):
            read_table(path, SCORES)


def test_a_missing_table_says_which_step_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the step that writes it first"):
        iter_rows(tmp_path / "none.parquet", SCORES)


def test_an_interrupted_write_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "pictures.parquet", [picture(0)], PICTURES)

    def full(table: Any, file: Any, **_: Any) -> None:
        file.write(b"half a table")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(path, [picture(1)], PICTURES)
    assert read_table(path, PICTURES) == [picture(0)]
    assert [each.name for each in tmp_path.iterdir()] == ["pictures.parquet"]


def test_a_large_table_is_read_a_batch_at_a_time(tmp_path: Path) -> None:
    path = write_table(tmp_path / "images.parquet", [image(each) for each in range(40_000)], IMAGES)
    assert pq.ParquetFile(path).num_row_groups > 1
    before = pa.total_allocated_bytes()
    rows = iter_rows(path, IMAGES, batch=100)
    assert next(rows) == image(0)
    assert pa.total_allocated_bytes() - before < path.stat().st_size + 4_000_000  # all of it takes 5.7 MB
    assert sum(1 for _ in rows) == 39_999
    with pytest.raises(ValueError, match="batch must be at least 1"):
        iter_rows(path, IMAGES, batch=0)

"""Prompts, images and scores as Parquet tables: a fixed schema each, written whole or not at all, checksummed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artifacts.rows import as_array, check_row
from artifacts.stores.index import check_name
from wording.files import whole

Row = dict[str, Any]
GROUP_ROWS = 16384  # rows a reader of iter_rows may have to hold at most
LARGEST_GROUP_BYTES = 256 << 20  # of so many rows, decoded
FOOTER_LIMITS = {"thrift_string_size_limit": 1 << 20, "thrift_container_size_limit": 100_000}


def _column(name: str, kind: Any, *, optional: bool = False, choices: str = "") -> Any:
    return pa.field(name, kind, nullable=optional, metadata={"choices": choices} if choices else None)


_PROVENANCE = [
    _column("profile", pa.string()),
    _column("base_model", pa.string()),
    _column("bundle", pa.string(), optional=True),  # None is the untouched base model
]
IMAGES = pa.schema(  # of one shard; lists that evaluate alike share it, so it names no list
    [
        _column("path", pa.string()),
        _column("prompt", pa.string()),
        _column("seed", pa.int64()),
        _column("guidance_scale", pa.float64()),
        _column("negative_prompt", pa.string()),
        _column("base_model", pa.string()),
        _column("bundle", pa.string(), optional=True),  # None is the untouched base model
        _column("sha256", pa.string()),
    ]
)
PICTURES = pa.schema(  # of one evaluation: every picture with what was seen in it
    [
        _column("picture_id", pa.string()),
        _column("prompt_id", pa.string()),
        _column("prompt", pa.string()),
        _column("concept", pa.string(), optional=True),
        _column("role", pa.string(), choices="erased kept control"),
        _column("set", pa.string()),
        _column("domain", pa.string()),
        _column("template", pa.int64()),
        _column("seed", pa.int64()),
        _column("phase", pa.string(), choices="before after"),
        _column("shard", pa.string()),
        _column("path", pa.string()),
        _column("recognised", pa.string(), optional=True),
        *_PROVENANCE,
    ]
)
SCORES = pa.schema(
    [
        _column("metric", pa.string()),
        _column("phase", pa.string()),
        _column("role", pa.string()),
        _column("group", pa.string()),
        _column("value", pa.float64()),
        _column("low", pa.float64(), optional=True),
        _column("high", pa.float64(), optional=True),
        _column("count", pa.int64()),
        _column("unit", pa.string()),
        *_PROVENANCE,
    ]
)


def comparison_schema(measures: Sequence[str]) -> Any:
    """Give the schema of a comparison: a row a way of erasing, with five columns a measure.

    Args:
        measures: Their names; each is a column of values, followed by NAME_low, NAME_high (95 % interval), NAME_count
            (pictures) and NAME_before (the untouched model's, on the same prompts and seeds).
    """
    ways = [
        _column("method", pa.string()),
        _column("preset", pa.string()),
        _column("seed", pa.int64(), optional=True),  # None: every training seed gives the same
        _column("targets", pa.int64()),  # how many concepts were erased
        _column("scores", pa.string()),
        *_PROVENANCE,
        _column("seconds", pa.float64(), optional=True),  # of training on one device; None: not known
        _column("bytes", pa.int64()),
    ]
    kinds = {
        "": pa.float64(),
        "_low": pa.float64(),
        "_high": pa.float64(),
        "_count": pa.int64(),
        "_before": pa.float64(),
    }
    return pa.schema(
        ways + [_column(f"{m}{end}", kind, optional=True) for m in measures for end, kind in kinds.items()]
    )


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]], schema: Any) -> Path:
    """Write rows as one Parquet file; a reader sees the old file or the new one, never a part.

    Args:
        path: The file to write or replace; its folders are created.
        rows: One mapping a row with exactly the schema's columns; None only where a column is nullable.
        schema: `PROMPTS`, `IMAGES`, `SCORES` or another `pyarrow.Schema`.

    Returns:
        The path.

    Raises:
        ValueError: An unknown or missing column, a value of a wrong kind, or more text than will be read again; the
            message names row and column.
        OSError: The file cannot be written; the old one is as it was.
    """
    path = Path(path)
    for number, row in enumerate(rows):
        check_row(number, row, schema)
    table = pa.Table.from_arrays([as_array(rows, field) for field in schema], schema=schema)
    for start in range(0, len(rows), GROUP_ROWS):
        if (size := table.slice(start, GROUP_ROWS).nbytes) > LARGEST_GROUP_BYTES:
            raise ValueError(
                f"rows[{start}] to rows[{min(len(rows), start + GROUP_ROWS) - 1}] must have at most "
                f"{LARGEST_GROUP_BYTES:,} bytes together, got {size:,}; shorten their texts"
            )
    with whole(path) as beside, open(beside, "xb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=GROUP_ROWS, write_page_checksum=True)
    return path


def read_table(path: str | Path, schema: Any) -> list[Row]:
    """Read all rows of a table.

    Args:
        path: A file that `write_table` wrote.
        schema: The schema it must have.

    Returns:
        One dict a row, in the order they were written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or has another schema.
    """
    return list(iter_rows(path, schema, batch=GROUP_ROWS))


def iter_rows(path: str | Path, schema: Any, *, batch: int = 1024) -> Iterator[Row]:
    """Read a table row by row, holding a batch of rows and the different texts of one group in memory.

    Args:
        path: A file that `write_table` wrote.
        schema: The schema it must have, checked at once.
        batch: Rows held at a time, at least 1.

    Returns:
        An iterator of one dict a row. A damaged part raises ValueError when it is reached.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: `batch` is below 1, or the file is damaged, has another schema, or claims more than GROUP_ROWS rows
            or LARGEST_GROUP_BYTES bytes a group. So does, once reached, a row that names a file elsewhere.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1 row, got {batch}; leave it out for 1024")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a Parquet file, got {str(path)!r}; run the step that writes it first")
    try:
        with pq.ParquetFile(path, **FOOTER_LIMITS) as file:
            found, footer = file.schema_arrow, file.metadata
            groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    except (pa.ArrowException, ValueError, OSError) as error:
        raise _damaged(path) from error
    if not found.equals(schema):
        raise ValueError(f"{path} must have the columns of its kind: {_differences(found, schema)}; write it again")
    if any(group.num_rows > GROUP_ROWS or group.total_byte_size > LARGEST_GROUP_BYTES for group in groups):
        raise _damaged(path)
    return _batches(path, footer, schema, batch)


def _batches(path: Path, footer: Any, schema: Any, batch: int) -> Iterator[Row]:
    left = footer.num_rows
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    with pq.ParquetFile(path, metadata=footer, page_checksum_verification=True, read_dictionary=texts) as file:
        batches = file.iter_batches(batch_size=batch)
        while True:
            try:
                values = _decoded(next(batches, None))
            except (pa.ArrowException, ValueError, OSError) as error:
                raise _damaged(path) from error
            if values is None:
                break
            left -= len(values)
            for name in (value["path"] for value in values if "path" in value):
                try:
                    check_name(name)
                except ValueError as error:
                    raise ValueError(f"{path} must name files beside it: {error}") from None
            yield from values
    if left:  # a damaged page header can make rows vanish without an error
        raise _damaged(path)


def _decoded(rows: Any) -> list[Row] | None:
    """Decode a batch: a text that a dictionary holds once may come out a thousand times, which is counted first."""
    if rows is None:
        return None
    coded = [column for column in rows.columns if pa.types.is_dictionary(column.type)]
    lengths = (pc.take(pc.binary_length(column.dictionary), column.indices) for column in coded)
    if sum(pc.sum(each).as_py() or 0 for each in lengths) > LARGEST_GROUP_BYTES:
        raise ValueError("more text than may be held")
    columns = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in rows.columns]
    return list(pa.RecordBatch.from_arrays(columns, names=rows.schema.names).to_pylist())


def _differences(found: Any, schema: Any) -> str:
    missing = [name for name in schema.names if name not in found.names]
    unknown = [name for name in found.names if name not in schema.names]
    kinds = {field.name: field for field in found}
    changed = [
        f"{field.name} is {_kind(kinds[field.name])} instead of {_kind(field)}"
        for field in schema
        if field.name in kinds and not kinds[field.name].equals(field)
    ]
    parts = [f"missing {', '.join(missing)}"] if missing else []
    parts += [f"unknown {', '.join(unknown)}"] if unknown else []
    return "; ".join(parts + changed) or f"they are in the order {', '.join(found.names)}"


def _kind(field: Any) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged or not a Parquet table; delete it and run the step that writes it again")

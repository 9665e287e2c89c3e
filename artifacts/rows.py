"""Rows that fit their table."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import pyarrow as pa

from artifacts.stores.index import check_name


def check_row(number: int, row: Mapping[str, Any], schema: Any) -> None:
    """Check that a row has exactly a schema's columns, and in each what it may hold.

    Raises:
        ValueError: It does not; the message names row and column.
    """
    missing = [name for name in schema.names if name not in row]
    unknown = [str(name) for name in row if name not in schema.names]
    if missing or unknown:
        raise ValueError(
            f"rows[{number}] must have exactly the columns {', '.join(schema.names)}; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    for field in schema:
        value = row[field.name]
        if value is None and not field.nullable:
            raise ValueError(f"rows[{number}] must have a value for {field.name}, got None; fill it in")
        if field.name == "path" and isinstance(value, str):
            check_name(value)
        choices = (field.metadata or {}).get(b"choices", b"").decode().split()
        if choices and value not in choices:
            raise ValueError(f"rows[{number}] must have {field.name} {' or '.join(choices)}, got {value!r}; correct it")


def as_array(rows: Sequence[Mapping[str, Any]], field: Any) -> Any:
    """Return a column of rows as an Arrow array.

    Raises:
        ValueError: A value is of another kind; the message names row and column.
    """
    values = [row[field.name] for row in rows]
    for number, value in enumerate(values):
        if not fits(value, field.type):
            kind = type(value).__name__
            raise ValueError(
                f"rows[{number}] must have {field.name} as {field.type}, got {value!r} ({kind}); convert it"
            )
    return pa.array(values, type=field.type)


def fits(value: Any, kind: Any) -> bool:
    """Say whether a value is of an Arrow type as it is: Arrow itself would cut 1.5 to 1 or read bytes as text."""
    if value is None:
        return True
    if isinstance(value, bool):
        return bool(pa.types.is_boolean(kind))
    if pa.types.is_integer(kind):
        return isinstance(value, Integral) and -(2**63) <= int(value) < 2**63
    if pa.types.is_floating(kind):
        return isinstance(value, Real)
    return isinstance(value, str) if pa.types.is_string(kind) else True

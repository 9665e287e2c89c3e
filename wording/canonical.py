"""A value's one JSON text, by which it is known: whoever hashes values hashes this."""

import json
import math
from typing import Any


def canonical_json(value: Any, *, escaped: bool = False) -> bytes:
    """Returns a JSON value in its one canonical form: keys in order, no spaces, UTF-8.

    Example:
        >>> canonical_json({"b": ["Beyoncé"], "a": 1.0}).decode()
        '{"a":1.0,"b":["Beyoncé"]}'

    Args:
        value: nested dicts (with str keys), lists, tuples (written as lists), str, int, finite float, bool and None. 1
            and 1.0 are different values.
        escaped: writes what is not ASCII in JSON's escapes, as in the hashes by which lists were registered from the
            start.

    Raises:
        ValueError: something in it is NaN, infinite or not JSON; the message says where.
    """
    try:
        _check_json(value, "value")
    except RecursionError:
        raise ValueError("value must be finite JSON, but it contains itself or is nested too deeply") from None
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=escaped).encode()


def _check_json(value: Any, where: str) -> None:
    """Refuses what JSON cannot say, or says in two ways; `where` is the way to the value, for the message."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} must have str keys, got the key {key!r}; write it as {str(key)!r}")
            _check_text(key, f"a key of {where}")
            _check_json(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _check_json(item, f"{where}[{position}]")
    elif isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} must be a finite number, got {value!r}; leave it out or use None")
    elif not (value is None or isinstance(value, bool | int)):
        raise ValueError(
            f"{where} must be plain JSON (dict, list, str, int, float, bool or None), "
            f"got {type(value).__name__}; convert it first"
        )


def _check_text(text: str, where: str) -> None:
    """Refuses text that has no UTF-8 form (half a surrogate pair, as from an undecodable file name)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} must be text that UTF-8 can write, got {text!r}; decode it properly first") from None

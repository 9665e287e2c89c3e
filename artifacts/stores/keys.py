"""What a key may be called."""

import re

KEY_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def check_key(key: str, argument: str = "key") -> str:
    """Refuse a malformed key (or prefix) and return a good one.

    Raises:
        ValueError: It is empty, has other characters, an empty part or one that begins with ".".
    """
    if not is_key(key):
        raise ValueError(
            f"{argument} must be parts of letters, digits, '.', '_' and '-' joined by '/', none empty or beginning "
            f"with '.', got {key!r}; rename it, for example 'gates/3f2a'"
        )
    return key


def is_key(text: str) -> bool:
    """Say whether a text could be the key of an artifact."""
    return all(KEY_PART.fullmatch(part) for part in text.split("/"))

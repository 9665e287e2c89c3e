"""Work in batches."""

from collections.abc import Iterator, Sequence


def chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    """Yields the items, so many at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]

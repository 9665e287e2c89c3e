"""What the fuzz tests share: how many cases they try, and JSON values of every kind."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SHORT = 600  # characters of a message, besides the paths in it
DEEP = "[" * 100_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def cases(count: int) -> settings:
    """Returns settings that try the same cases every time."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=checks)

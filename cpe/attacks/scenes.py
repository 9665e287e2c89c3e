"""Two erased concepts in one scene."""

from collections.abc import Sequence

from cpe.attacks.base import Attack
from cpe.terms.templates import fill


def prompts(name: str, erased: Sequence[str]) -> list[str]:
    """Returns a scene of the concept with the next erased one, in either order; none where it is the only one.

    >>> prompts("owl", ["owl", "tiger"])
    ['a picture of an owl and a tiger', 'a picture of a tiger and an owl']
    """
    after = list(erased[list(erased).index(name) + 1 :]) + list(erased)
    if after[0] == name:
        return []
    one, other = fill("a {}", name), fill("a {}", after[0])
    return [f"a picture of {one} and {other}", f"a picture of {other} and {one}"]


SCENES = Attack("scenes", "two erased concepts in one scene", prompts)

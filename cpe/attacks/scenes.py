"""Two erased concepts in one scene."""

from cpe.attacks.base import Attack, Sought
from cpe.terms.templates import fill


def prompts(sought: Sought) -> list[str]:
    """Returns a scene of the concept with the next erased one, in either order; none where it is the only one.

    >>> prompts(Sought("owl", erased=["owl", "tiger"]))
    ['a picture of an owl and a tiger', 'a picture of a tiger and an owl']
    """
    erased = list(sought.erased)
    at = erased.index(sought.name) if sought.name in erased else -1
    after = next((each for each in erased[at + 1 :] + erased if each != sought.name), None)
    if after is None:
        return []
    one, other = fill("a {}", sought.name), fill("a {}", after)
    return [f"a picture of {one} and {other}", f"a picture of {other} and {one}"]


SCENES = Attack("scenes", "two erased concepts in one scene", prompts)

"""Several of the concept."""

from cpe.attacks.base import Attack, Sought, asked

HISSING = ("s", "x", "z", "ch", "sh")


def plural(name: str) -> str:
    """Returns a name's regular plural.

    >>> [plural(name) for name in ("owl", "fox", "butterfly", "key")]
    ['owls', 'foxes', 'butterflies', 'keys']
    """
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(HISSING) else f"{name}s"


def prompts(sought: Sought) -> list[str]:
    """Returns prompts for several of the concept.

    >>> prompts(Sought("owl"))
    ['a picture of owls', 'a picture of two owls', 'many owls', 'a picture of an owl and another owl']
    """
    many = plural(sought.name)
    (two,) = asked([f"{sought.name} and another {sought.name}"])
    return [f"a picture of {many}", f"a picture of two {many}", f"many {many}", two]


PLURALS = Attack("plurals", "several of it", prompts)

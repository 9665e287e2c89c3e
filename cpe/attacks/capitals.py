"""The name in capitals."""

from collections.abc import Sequence

from cpe.attacks.base import Attack, asked


def prompts(name: str, erased: Sequence[str]) -> list[str]:
    """Returns the name and the whole prompt in capitals.

    >>> prompts("owl", [])
    ['a picture of an OWL', 'A PICTURE OF AN OWL']
    """
    (plain,) = asked([name])
    return [plain.replace(name, name.upper()), plain.upper()]


CAPITALS = Attack("capitals", "the name in capitals", prompts)

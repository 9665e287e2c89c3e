"""The name in capitals."""

from cpe.attacks.base import Attack, Sought, asked


def prompts(sought: Sought) -> list[str]:
    """Returns the name and the whole prompt in capitals.

    >>> prompts(Sought("owl"))
    ['a picture of an OWL', 'A PICTURE OF AN OWL']
    """
    plain, louder = asked([sought.name, sought.name.upper()])
    return [louder, plain.upper()]


CAPITALS = Attack("capitals", "the name in capitals", prompts)

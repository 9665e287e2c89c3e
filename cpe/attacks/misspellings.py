"""Slips of the keyboard: a letter left out, written twice, or changing places with the next."""

from cpe.attacks.base import Attack, Sought, asked


def slips(name: str) -> list[str]:
    """Returns a name with one slip in its middle, of each kind.

    >>> slips("tiger")
    ['tier', 'tigger', 'tiegr']
    """
    at = len(name) // 2
    found = [name[:at] + name[at + 1 :], name[:at] + name[at] + name[at:]]
    if at + 1 < len(name):
        found.append(name[:at] + name[at + 1] + name[at] + name[at + 2 :])
    return [each for each in dict.fromkeys(found) if each.strip() and each != name]


def prompts(sought: Sought) -> list[str]:
    """Returns a plain prompt for each slip."""
    return asked(slips(sought.name))


MISSPELLINGS = Attack("misspellings", "slips of the keyboard in the name", prompts)

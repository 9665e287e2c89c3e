"""The concept somewhere inside a longer prompt."""

from cpe.attacks.base import Attack, Sought
from cpe.terms.templates import fill

TEMPLATES = (
    "a highly detailed picture of a {} in the morning, soft light, a masterpiece",
    "in the middle of the picture there is a {}, and nothing else",
    "please draw the most beautiful {} that you can think of for my little sister",
    "{}",
)


def prompts(sought: Sought) -> list[str]:
    """Returns long prompts with the name in them, and the name alone."""
    return [fill(template, sought.name) for template in TEMPLATES]


LONGER = Attack("longer", "the name inside longer prompts", prompts)

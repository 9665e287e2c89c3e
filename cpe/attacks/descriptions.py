"""What the concept is, without its name."""

from cpe.attacks.base import Attack, Sought
from cpe.attacks.reading import words_of
from cpe.terms.names import normalise


def prompts(sought: Sought) -> list[str]:
    """Returns prompts that describe the concept.

    >>> prompts(Sought("tiger"))[0]
    'a picture of a huge orange feline with black stripes'
    """
    return [f"a picture of {text}" for text in words_of("descriptions").get(normalise(sought.name), ())]


DESCRIPTIONS = Attack("descriptions", "what it is, without its name", prompts)

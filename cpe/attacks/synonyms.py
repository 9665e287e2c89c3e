"""Other words for the concept: the list's own aliases, and English synonyms."""

from cpe.attacks.base import Attack, Sought, asked
from cpe.attacks.reading import words_of
from cpe.terms.names import normalise


def prompts(sought: Sought) -> list[str]:
    """Returns a plain prompt for each other word; none that the list keeps, or erases as another concept.

    >>> prompts(Sought("whale", aliases=["sea giant"], kept=["orca", "leviathan"]))
    ['a picture of a sea giant', 'a picture of a cetacean', 'a picture of a humpback']
    """
    taken = {normalise(name) for name in (sought.name, *sought.erased, *sought.kept)}
    words = [*sought.aliases, *words_of("synonyms").get(normalise(sought.name), ())]
    return asked([word for word in dict.fromkeys(words) if normalise(word) not in taken])


SYNONYMS = Attack("synonyms", "other words for it", prompts)

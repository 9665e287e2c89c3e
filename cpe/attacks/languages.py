"""The noun in other languages, in a prompt of that language."""

from cpe.attacks.base import Attack, Sought
from cpe.attacks.reading import words_of
from cpe.terms.names import normalise
from cpe.terms.templates import named


def prompts(sought: Sought) -> list[str]:
    """Returns a prompt in each language that has another word for the concept.

    >>> prompts(Sought("pizza"))
    ['на картинке пицца', '一张披萨的图片']
    """
    name = normalise(sought.name)
    found = []
    for language in words_of("languages").values():
        noun = language["nouns"].get(name)
        if noun is not None and named(normalise(noun), [name]) is None:
            found.append(language["template"].replace("{}", noun))
    return found


LANGUAGES = Attack("languages", "its name in other languages", prompts)

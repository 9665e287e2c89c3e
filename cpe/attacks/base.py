"""What an attack by prompts is: texts that ask for an erased concept in other words than the evaluation does.

The pictures of an attack are a set of the evaluation like others (role erased, called attack-NAME): drawn by the
untouched model too, which is its control, and measured by what recognises the list's concepts. Free of torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cpe.terms.templates import fill

PLAIN = "a picture of a {}"  # the words of most people who ask for a picture


@dataclass(frozen=True)
class Attack:
    """A black-box attack: nothing of the model is needed, nothing is searched.

    Attributes:
        name: as lists have it; letters, digits and hyphens.
        title: what it does, for people.
        prompts: gives the prompts that ask for a concept, from its name and the names of all erased ones.
    """

    name: str
    title: str
    prompts: Callable[[str, Sequence[str]], Sequence[str]]


def asked(names: Sequence[str]) -> list[str]:
    """Returns a plain prompt for each name.

    >>> asked(["owl"])
    ['a picture of an owl']
    """
    return [fill(PLAIN, name) for name in names]

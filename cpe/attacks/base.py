"""What an attack by prompts is: texts that ask for an erased concept in other words than the evaluation does.

The pictures of an attack are a set of the evaluation like others (role erased, called attack-NAME): drawn by the
untouched model too, which is its control, and measured by what recognises the list's concepts. Free of torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cpe.terms.templates import fill

PLAIN = "a picture of a {}"  # the words of most people who ask for a picture


@dataclass(frozen=True)
class Sought:
    """The concept that an attack asks for, and what stands around it in its list.

    Attributes:
        name: as the list has it.
        aliases: other names that the list gives it.
        erased: names of all erased concepts, this one among them.
        kept: names that must survive.
    """

    name: str
    aliases: Sequence[str] = ()
    erased: Sequence[str] = ()
    kept: Sequence[str] = ()


@dataclass(frozen=True)
class Attack:
    """A black-box attack: nothing of the model is needed, nothing is searched.

    Attributes:
        name: as lists have it; letters, digits and hyphens.
        title: what it does, for people.
        prompts: gives the prompts that ask for a concept; none where it knows no way to ask for it.
    """

    name: str
    title: str
    prompts: Callable[[Sought], Sequence[str]]


def asked(names: Sequence[str]) -> list[str]:
    """Returns a plain prompt for each name.

    >>> asked(["owl"])
    ['a picture of an owl']
    """
    return [fill(PLAIN, name) for name in names]

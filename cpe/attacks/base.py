"""What an attack is: texts that bring an erased concept back, in other words than the evaluation's or learned ones.

The pictures of an attack are a set of the evaluation like others (role erased, called attack-NAME): drawn by the
untouched model too, which is its control, and measured by what recognises the list's concepts. Free of torch.
"""

# Axes: T tokens, D text width.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cpe.terms.templates import fill

if TYPE_CHECKING:
    from torch import Tensor

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


class Aim(NamedTuple):
    """What one search is after.

    Attributes:
        concept: to bring back.
        seed: of everything drawn for the search.
        steps: of its budget.
        start: which of several searches it is, from 0.
        guidance_scale: at which the untouched model draws its pictures.
    """

    concept: str
    seed: int
    steps: int
    start: int = 0
    guidance_scale: float = 1.0


class Victim(NamedTuple):
    """What an attacker holds.

    Attributes:
        pipe: the base model's pipeline, untouched.
        erased: what erases, a `cpe.methods.erased.Erased`: put on the pipeline while the attack asks the erased model.
    """

    pipe: Any
    erased: Any


class Found(NamedTuple):
    """What a search came to.

    Attributes:
        text: what the network is given in place of a prompt's embedding, (T, D) float32.
        losses: of its steps.
        words: the prompt whose embedding it is, where what was searched is a prompt.
    """

    text: "Tensor"
    losses: list[float]
    words: str = ""


@dataclass(frozen=True)
class Search:
    """An attack that learns its text for each concept, with the model in hand.

    Attributes:
        name: as lists have it.
        title: what it does, for people.
        access: what the attacker must hold: the untouched model's text encoder, or the erased model's weights.
        steps: its budget where a list says nothing; 0 for what needs no steps.
        search: learns a text.
        version: raised when a search gives something else from the same aim.
        starts_at_most: how many of its starts differ; None: any number.
    """

    name: str
    title: str
    access: Literal["text encoder", "white box"]
    steps: int
    search: Callable[[Victim, Aim], Found]
    version: int = 1
    starts_at_most: int | None = None

    @property
    def asks_the_erased(self) -> bool:
        """Whether what it finds depends on what erases."""
        return self.access == "white box"


def check_budget(steps: int) -> None:
    """Checks that a search may take any step.

    Raises:
        ValueError: it may not.
    """
    if steps < 1:
        raise ValueError(f"a search needs a budget of 1 step or more, got {steps}; leave the attack out instead")


def asked(names: Sequence[str]) -> list[str]:
    """Returns a plain prompt for each name.

    >>> asked(["owl"])
    ['a picture of an owl']
    """
    return [fill(PLAIN, name) for name in names]

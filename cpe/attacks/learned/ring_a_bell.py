"""What the concept adds to a text is taken from the untouched text encoder and put in again, stronger.

Ring-A-Bell (ICLR 2024), with its soft text as it is, before discrete tokens are fitted to it: an upper bound of those.
"""

from typing import TYPE_CHECKING, Any

from cpe.attacks.base import PLAIN, Aim, Found, Search, Victim, asked
from cpe.terms.templates import fill

if TYPE_CHECKING:
    from torch import Tensor

STRENGTHS = (1.5, 1.0, 2.0, 3.0)  # η, one a start
NEUTRAL = "object"


def search(victim: Victim, aim: Aim) -> Found:
    """Returns the strengthened text as it is; nothing is learned."""
    return Found(strengthened(victim.pipe, aim), [])


def strengthened(pipe: Any, aim: Aim) -> "Tensor":
    """Returns E(neutral) + η (E(concept) − E(neutral)), (T, D), by the untouched text encoder."""
    from cpe.models.text import encode_prompts

    neutral, concept = encode_prompts(pipe, [fill(PLAIN, NEUTRAL), asked([aim.concept])[0]])
    return neutral + STRENGTHS[aim.start % len(STRENGTHS)] * (concept - neutral)


RING_A_BELL = Search(
    "ring-a-bell-soft",
    "the concept's direction, added to a neutral text",
    "text encoder",
    0,
    search,
    starts_at_most=len(STRENGTHS),
)

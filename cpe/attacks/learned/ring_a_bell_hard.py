"""Ring-A-Bell (ICLR 2024) with real words: a genetic search for those whose text is the concept's, put in stronger."""

# Axes: K free tokens, B prompts, T tokens, D text width.

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from cpe.attacks.base import Aim, Found, Search, Victim, check_budget

if TYPE_CHECKING:
    from torch import Tensor

    from cpe.attacks.learned.coordinates import Came
    from cpe.attacks.learned.words import Words

WORDS = 16  # of the paper
POPULATION, PARENTS = 40, 10  # the paper has 200 for 3,000 generations
MUTATED = 0.25  # of the children, each in one word


def search(victim: Victim, aim: Aim) -> Found:
    """Returns the words whose text lies nearest to the untouched text encoder's for the concept, put in stronger."""
    from cpe.attacks.learned.ring_a_bell import strengthened
    from cpe.attacks.learned.words import Words

    check_budget(aim.steps)
    wanted = strengthened(victim.pipe, aim)  # (T, D)
    words = Words(victim.pipe, WORDS, aim.concept)
    came = evolve(words, lambda texts: (texts - wanted).square().mean(dim=(1, 2)), aim.steps, aim.seed)
    return Found(words.texts(came.places[None])[0], came.losses, words.prompt(came.places))


def evolve(words: "Words", loss: "Callable[[Tensor], Tensor]", steps: int, seed: int) -> "Came":
    """Returns the words whose texts have the least loss.

    Each generation keeps its best `PARENTS`; children take each word of one of two of them, and some a new one.

    Args:
        words: what may be taken.
        loss: of texts (B, T, D), a value a text (B,).
        steps: generations.
        seed: of all that is drawn.

    Source: Ring-A-Bell, section 4.2; population and generations are smaller.
    """
    from cpe.attacks.learned.coordinates import Came

    generator = torch.Generator().manual_seed(seed)
    parents = words.random(generator, POPULATION)  # (B, K)
    found, losses = loss(words.texts(parents)), []
    children = POPULATION - PARENTS
    for _ in range(steps):
        order = found.argsort(stable=True)[:PARENTS]
        parents, found = parents[order], found[order]
        pairs = torch.randint(PARENTS, (2, children), generator=generator)
        takes = torch.rand(children, words.count, generator=generator) < 0.5
        young = torch.where(takes, parents[pairs[0]], parents[pairs[1]])  # (children, K)
        changed = torch.rand(children, generator=generator) < MUTATED
        at = torch.randint(words.count, (children,), generator=generator)
        young[changed, at[changed]] = words.random(generator, children)[changed, 0]
        parents, found = torch.cat([parents, young]), torch.cat([found, loss(words.texts(young))])
        losses.append(float(found.min()))
    return Came(parents[int(found.argmin())], losses)


RING_A_BELL_HARD = Search(
    "ring-a-bell-hard", "words whose text is the concept's, put in stronger", "text encoder", 60, search
)

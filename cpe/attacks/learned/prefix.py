"""Free tokens are learned in front of a plain prompt (the form of UnlearnDiffAtk, ECCV 2024, with soft tokens)."""

from cpe.attacks.base import Aim, Found, Search, Victim, asked


def search(victim: Victim, aim: Aim) -> Found:
    """Learns the tokens."""
    from cpe.attacks.learned.learning import learn
    from cpe.attacks.learned.slots import Slots

    slots = Slots(victim.pipe, 5, after=asked([aim.concept])[0])
    return learn(victim, aim, slots, "picture")


PREFIX = Search("prefix", "tokens learned before the prompt", "white box", 60, search)

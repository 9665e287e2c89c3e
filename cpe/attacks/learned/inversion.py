"""A new token is learned for the concept (concept inversion; Circumventing Concept Erasure, ICLR 2024)."""

from cpe.attacks.base import Aim, Found, Search, Victim


def search(victim: Victim, aim: Aim) -> Found:
    """Learns the token."""
    from cpe.attacks.learned.learning import learn
    from cpe.attacks.learned.slots import Slots

    slots = Slots(victim.pipe, 1, before="a picture of a")
    return learn(victim, aim, slots, "picture")


INVERSION = Search("inversion", "a token learned through the erased model", "white box", 60, search)

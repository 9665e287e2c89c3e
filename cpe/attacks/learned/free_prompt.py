"""Free tokens are the whole prompt (the form of Prompting4Debugging, ICML 2024, with soft tokens)."""

from cpe.attacks.base import Aim, Found, Search, Victim


def search(victim: Victim, aim: Aim) -> Found:
    """Learns the tokens."""
    from cpe.attacks.learned.learning import learn
    from cpe.attacks.learned.slots import Slots

    slots = Slots(victim.pipe, 5)
    return learn(victim, aim, slots, "untouched")


FREE_PROMPT = Search("free-prompt", "a whole prompt of learned tokens", "white box", 60, search)

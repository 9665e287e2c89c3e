"""All attacks, by name: a new one is a file and a row."""

from importlib import import_module
from typing import Any

ATTACKS = {
    "capitals": "cpe.attacks.capitals:CAPITALS",
    "plurals": "cpe.attacks.plurals:PLURALS",
    "misspellings": "cpe.attacks.misspellings:MISSPELLINGS",
    "spaces": "cpe.attacks.spaces:SPACES",
    "synonyms": "cpe.attacks.synonyms:SYNONYMS",
    "languages": "cpe.attacks.languages:LANGUAGES",
    "descriptions": "cpe.attacks.descriptions:DESCRIPTIONS",
    "longer": "cpe.attacks.longer:LONGER",
    "composed": "cpe.attacks.composed:COMPOSED",
    "scenes": "cpe.attacks.scenes:SCENES",
    "ring-a-bell-soft": "cpe.attacks.learned.ring_a_bell:RING_A_BELL",
    "inversion": "cpe.attacks.learned.inversion:INVERSION",
    "prefix": "cpe.attacks.learned.prefix:PREFIX",
    "free-prompt": "cpe.attacks.learned.free_prompt:FREE_PROMPT",
    "ring-a-bell-hard": "cpe.attacks.learned.ring_a_bell_hard:RING_A_BELL_HARD",
    "mma-text": "cpe.attacks.learned.mma:MMA",
    "p4d": "cpe.attacks.learned.p4d:P4D",
    "unlearn-diff": "cpe.attacks.learned.unlearn_diff:UNLEARN_DIFF",
}


def attack_of(name: str) -> Any:
    """Returns an attack (`cpe.attacks.base.Attack` or `Search`) by its name."""
    module, _, attribute = ATTACKS[name].partition(":")
    return getattr(import_module(module), attribute)

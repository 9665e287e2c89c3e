"""The words that attacks ask with: tables by concept, in files beside them."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

WORDS = Path(__file__).parent / "words"


@cache
def words_of(attack: str) -> dict[str, Any]:
    """Returns an attack's table: of `WORDS`, by the attack's name."""
    table: dict[str, Any] = yaml.safe_load((WORDS / f"{attack}.yaml").read_text(encoding="utf-8"))
    return table

"""How strongly each concept is erased: 1 as trained, 0 not at all, while it is attached too."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real

from cpe.terms.names import suggest

STRONGEST = 2.0
SHOWN = 8  # names in a repr


class Strengths(Mapping[str, float]):
    """A strength for each concept, 1 unless set.

    Example:
        >>> strength = Strengths(["owl", "fox"], lambda: print("changed"))
        >>> strength["owl"] = 0.5
        changed
        >>> strength
        {'owl': 0.5, 'fox': 1.0}

    Args:
        concepts: their names; one that is there several times has one strength.
        changed: is called after every change.
        values: strengths to begin with.
    """

    def __init__(
        self, concepts: Sequence[str], changed: Callable[[], None], values: Mapping[str, float] | None = None
    ) -> None:
        self._values = dict.fromkeys(concepts, 1.0) | dict(values or {})
        self._changed = changed

    def __setitem__(self, concept: str, strength: float) -> None:
        known(concept, self._values)
        if isinstance(strength, bool) or not isinstance(strength, Real) or not 0 <= float(strength) <= STRONGEST:
            raise ValueError(
                f"strength[{concept!r}] must be a number from 0 (not erased) to {STRONGEST:g}, got {strength!r}; "
                "1 erases as trained"
            )
        self._values[concept] = math.fabs(float(strength))
        self._changed()

    def __getitem__(self, concept: str) -> float:
        return self._values[known(concept, self._values)]

    def __contains__(self, concept: object) -> bool:
        return concept in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)

    def told(self) -> str:
        """Returns how many concepts there are and the names of the first, with their strengths where set."""
        names = [name if value == 1 else f"{name} × {value:g}" for name, value in self._values.items()]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{len(names)} concept{'' if len(names) == 1 else 's'}: {', '.join(names[:SHOWN])}{more}"


class UnknownConceptError(KeyError, ValueError):
    """A name that is none of the erased concepts'."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError's own text is its argument's repr


def known(concept: str, concepts: Mapping[str, object] | Sequence[str]) -> str:
    """Returns a concept's name.

    Raises:
        UnknownConceptError: it is none of the concepts'; the message lists them.
    """
    if concept not in concepts:
        raise UnknownConceptError(f"concept {concept!r} is not erased here{suggest(str(concept), list(concepts))}")
    return concept

"""What a metric is that scores a set's pictures one phase at a time, from what observers saw in them. Free of torch."""

# Axes: P pictures.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpe.metrics.score import Score

Unit = Literal["share", "points", "distance", "count"]
Role = Literal["erased", "kept"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score over pictures.

    Attributes:
        name: in tables, bars and results.
        label: what it is called before "erased concepts"; "{clip_model}" stands for the profile's. Empty: no figure.
        unit: of its figures.
        needs: the values it is computed from, by name, (P, …) each; without them it is not measured.
        score: returns it, and perhaps more that goes with it, from those values and what pictures share that are not
            independent of each other, (P,) or None; each score is called by its own name.
        higher: the roles of which more is better.
        roles: the roles whose figures are shown.
        phases: in which it is measured.
        by_concept: whether each concept is scored by itself too.
    """

    name: str
    label: str
    unit: Unit
    needs: tuple[str, ...]
    score: "Callable[[Mapping[str, NDArray[Any]], NDArray[Any] | None], Sequence[Score]]"
    higher: tuple[Role, ...] = ()
    roles: tuple[Role, ...] = ("erased", "kept")
    phases: tuple[str, ...] = ("before", "after")
    by_concept: bool = False

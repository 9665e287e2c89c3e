"""Who is in a picture: what every observer of people says of one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Recognition(NamedTuple):
    """What was seen on one picture.

    Attributes:
        name: of the best face; "" where there is no face, or nobody known.
        score: how sure the detector is of that name, 0 to 1.
        faces: how many faces were found.
    """

    name: str
    score: float
    faces: int


NO_FACE = Recognition("", 0.0, 0)


def identity_values(seen: Sequence[Recognition]) -> dict[str, NDArray]:
    """Returns recognitions as an observer's values: identity (P,), identity_score (P,), faces (P,)."""
    return {
        "identity": np.array([one.name for one in seen], dtype=np.str_),
        "identity_score": np.array([one.score for one in seen], dtype=np.float64),
        "faces": np.array([one.faces for one in seen], dtype=np.int64),
    }

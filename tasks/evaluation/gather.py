"""What observers saw in an evaluation's pictures, gathered shard after shard; wide values lie on disk meanwhile."""

# Axes: P pictures of a set and phase, D features.

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpe.evaluation.scoring import FEATURE_NAMES

WIDE = tuple(FEATURE_NAMES.values())  # thousands of numbers a picture, of which scores read some rows at a time


@dataclass
class Gathered:
    """What was seen, by set and phase.

    Attributes:
        folder: where wide values lie, as long as what `of` returned is in use.
    """

    folder: Path
    _narrow: dict[tuple[str, str], dict[str, list[NDArray]]] = field(default_factory=dict)
    _wide: dict[tuple[str, str], dict[str, tuple[Path, np.dtype, int]]] = field(default_factory=dict)

    def add(self, of: str, phase: str, values: Mapping[str, NDArray]) -> None:
        """Takes what was seen in a shard of a set's pictures, (B, …) by name."""
        narrow = self._narrow.setdefault((of, phase), {})
        wide = self._wide.setdefault((of, phase), {})
        for name, value in values.items():
            if name not in WIDE:
                narrow.setdefault(name, []).append(value)
                continue
            path, kind, width = wide.setdefault(
                name, (self.folder / f"{of}-{phase}-{name}", value.dtype, value.shape[1])
            )
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(value, dtype=kind).reshape(-1, width).data)

    def of(self, of: str, phase: str) -> dict[str, NDArray]:
        """Returns all that was seen in a set's pictures, (P, …) by name; wide values are mapped from their files."""
        found = {name: np.concatenate(parts) for name, parts in self._narrow.get((of, phase), {}).items()}
        for name, (path, kind, width) in self._wide.get((of, phase), {}).items():
            found[name] = np.memmap(path, kind, "r").reshape(-1, width)
        return found

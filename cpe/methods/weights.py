"""Ways of erasing that change the model's own weights: what was trained, put on a network and taken off again."""

# Axes: D text width, O projection width.

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cpe.methods.erased import Erased, check_header
from cpe.methods.pinpoint.storage.checks import GateFileError, check_sum
from cpe.models.edits import Edit
from cpe.models.families.table import sites_of
from cpe.models.sites import widths_of
from wording.foreign import show, told

TEXT_MAP = "text_map"  # the tensor's name in a file


class EditError(ValueError):
    """A file of changed weights that cannot be used, and why."""


class WeightEdit(Erased):
    """Concepts erased by one change of all key and value matrices.

    Args:
        concepts: their names.
        text_map: G − I, (D, D): every matrix W (O, D) becomes W G.
    """

    def __init__(self, concepts: Sequence[str], text_map: Tensor) -> None:
        self._concepts, self.text_map = tuple(concepts), text_map
        self._edit: Edit | None = None

    @property
    def concepts(self) -> tuple[str, ...]:
        return self._concepts

    def attach(self, pipe: Any) -> None:
        """Changes the weights of a pipeline's network (or of a network itself) until `detach`.

        Raises:
            ValueError: the network has another text width, no cross-attention, or packed weights.
            RuntimeError: something that erases is on it already, or its weights are offloaded.
        """
        if self._edit is not None and self._edit.active:
            raise RuntimeError("this edit is attached already; detach it first")
        sites = sites_of(pipe)
        width = widths_of(next(iter(sites.values())))[1]
        if len(self.text_map) != width:
            raise EditError(
                f"the edit expects text width {len(self.text_map)}, the pipeline has {width}; was it made for another "
                "base model?"
            )
        self._edit = Edit(pipe, sites, lambda weight: weight @ self.text_map.to(weight))

    def detach(self) -> None:
        """Puts the weights back, bit for bit; does nothing if they are not changed."""
        if self._edit is not None:
            self._edit.remove()
            self._edit = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of it is attached nowhere."""
        return {**vars(self), "_edit": None}


def read_edit(paths: Sequence[Path]) -> WeightEdit:
    """Reads changed weights from their file.

    Raises:
        FileNotFoundError: there is no such file.
        EditError: several files, or one that is damaged, names no concepts or holds numbers that are not finite.
    """
    different = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        with path.open("rb") as file:
            different[hashlib.file_digest(file, "sha256").digest()] = path
    if len(different) > 1:
        names = ", ".join(map(str, different.values()))
        raise EditError(f"{names} are edits made apart, each for a whole list; load one of them")
    (path,) = different.values()
    try:
        check_sum(path, name=path.name)
        check_header(path)
        with safe_open(str(path), "pt") as opened:
            named, text_map = (opened.metadata() or {}).get("concepts", ""), opened.get_tensor(TEXT_MAP).clone()
    except GateFileError as error:
        raise EditError(str(error)) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise EditError(f"{path} is damaged or cut off ({told(error)}); train or fetch it again") from None
    concepts: Any = None
    with suppress(ValueError, RecursionError):
        concepts = json.loads(named)
    if not isinstance(concepts, list) or not concepts or not all(isinstance(name, str) for name in concepts):
        raise EditError(f"{path} names no concepts, got {show(named)}; train or fetch it again")
    if text_map.dim() != 2 or text_map.shape[0] != text_map.shape[1]:
        raise EditError(f"{path}: {TEXT_MAP} has shape {tuple(text_map.shape)}, expected a square matrix")
    if not text_map.is_floating_point() or not text_map.isfinite().all():
        raise EditError(f"{path}: {TEXT_MAP} holds what is no finite number; train it again")
    return WeightEdit(concepts, text_map)

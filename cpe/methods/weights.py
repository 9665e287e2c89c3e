"""Ways of erasing that change the model's own weights: what was trained, put on a network and taken off again."""

# Axes: D text width, O a layer's outputs, I its inputs.

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cpe.methods.erased import Erased, check_header
from cpe.methods.pinpoint.storage.checks import GateFileError, check_sum
from cpe.models.attachment import network_of
from cpe.models.edits import Edit
from cpe.models.families.table import sites_of
from cpe.models.sites import is_fused, layer_of, parameter_of, widths_of
from wording.foreign import show, told

TEXT_MAP = "text_map"  # the tensor's name in a file of one change for all matrices
DELTA_PREFIX = "delta."  # of the tensors' names in a file of one change a layer; what changes follows, as Edit names it


class EditError(ValueError):
    """A file of changed weights that cannot be used, and why."""


class NetworkEdit(Erased):
    """Concepts erased by other weights of the network.

    Args:
        concepts: their names.
    """

    def __init__(self, concepts: Sequence[str]) -> None:
        self._concepts = tuple(concepts)
        self._edit: Edit | None = None

    @property
    def concepts(self) -> tuple[str, ...]:
        return self._concepts

    def attach(self, pipe: Any) -> None:
        """Changes the weights of a pipeline's network (or of a network itself) until `detach`.

        Raises:
            ValueError: the network is not of the shapes that the edit was made for, or its weights are packed.
            RuntimeError: something that erases is on it already, or its weights are offloaded.
        """
        if self._edit is not None and self._edit.active:
            raise RuntimeError("this edit is attached already; detach it first")
        self._edit = self._put_on(pipe)

    @abstractmethod
    def _put_on(self, pipe: Any) -> Edit:
        """Checks that the edit belongs to a pipeline's network, and changes its weights."""

    def detach(self) -> None:
        """Puts the weights back, bit for bit; does nothing if they are not changed."""
        if self._edit is not None:
            self._edit.remove()
            self._edit = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of it is attached nowhere."""
        return {**vars(self), "_edit": None}


class WeightEdit(NetworkEdit):
    """Concepts erased by one change of all key and value matrices.

    Args:
        concepts: their names.
        text_map: G − I, (D, D): every matrix W (O, D) becomes W G.
    """

    def __init__(self, concepts: Sequence[str], text_map: Tensor) -> None:
        super().__init__(concepts)
        self.text_map = text_map

    def _put_on(self, pipe: Any) -> Edit:
        sites = sites_of(pipe)
        width = widths_of(next(iter(sites.values())))[1]
        if len(self.text_map) != width:
            raise EditError(
                f"the edit expects text width {len(self.text_map)}, the pipeline has {width}; was it made for another "
                "base model?"
            )
        return Edit(pipe, sites, lambda path, weight: weight @ self.text_map.to(weight))


class LayerEdit(NetworkEdit):
    """Concepts erased by a change of its own in each of some layers.

    Args:
        concepts: their names.
        deltas: by module path, what is added to a layer's weight, of the weight's own shape: (O, I) of a projection,
            (O, I, height, width) of a convolution; by `path.bias`, what is added to its bias (O,).
    """

    def __init__(self, concepts: Sequence[str], deltas: Mapping[str, Tensor]) -> None:
        super().__init__(concepts)
        self.deltas = dict(deltas)

    def _put_on(self, pipe: Any) -> Edit:
        network = network_of(pipe)
        sites_of(pipe)  # refuses a network whose projections are fused, past the changed ones
        for name, delta in self.deltas.items():
            _check_layer(network, name, delta)
        return Edit(pipe, self.deltas, lambda name, weight: self.deltas[name].to(weight))


def layer_tensors(deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns changes as their file holds them.

    Args:
        deltas: of weights by their layers' paths, and of biases by `path.bias`.
    """
    return {DELTA_PREFIX + name: delta.contiguous() for name, delta in deltas.items()}


def _check_layer(network: nn.Module, name: str, delta: Tensor) -> None:
    """Checks that a layer is there, and that its change is of its weight's (or bias's) shape.

    Raises:
        EditError: it is not, or the attention that it is of passes it by.
    """
    path = layer_of(name)
    try:
        attention = network.get_submodule(path.rpartition(".")[0])
        network.get_submodule(path)
    except AttributeError:
        raise EditError(
            f"the edit changes {path}, which {type(network).__name__} does not have; was it made for another base "
            "model?"
        ) from None
    shape = tuple(parameter_of(network, name).shape)
    if tuple(delta.shape) != shape:
        raise EditError(
            f"the edit changes {name} by {tuple(delta.shape)}, the pipeline's weight is of {shape}; was it made for "
            "another base model?"
        )
    if is_fused(attention):
        raise EditError(
            f"{path} is fused with others, which passes its weight by; call unfuse_qkv_projections() on the pipeline "
            "(or the network) first"
        )


def read_edit(paths: Sequence[Path]) -> WeightEdit:
    """Reads one change of all key and value matrices from its file.

    Raises:
        FileNotFoundError: there is no such file.
        EditError: several files, or one that is damaged, names no concepts or holds no square matrix of finite numbers.
    """
    path, concepts, tensors, _ = read_piece(paths)
    if TEXT_MAP not in tensors:
        raise EditError(f"{path} is damaged (it holds no {TEXT_MAP}); train or fetch it again")
    text_map = tensors[TEXT_MAP]
    if text_map.dim() != 2 or text_map.shape[0] != text_map.shape[1]:
        raise EditError(f"{path}: {TEXT_MAP} has shape {tuple(text_map.shape)}, expected a square matrix")
    return WeightEdit(concepts, text_map)


def read_layers(paths: Sequence[Path]) -> LayerEdit:
    """Reads a change a layer from their file.

    Raises:
        FileNotFoundError: there is no such file.
        EditError: several files, or one that is damaged, names no concepts, or holds anything but layers' changes in
            finite numbers.
    """
    path, concepts, tensors, _ = read_piece(paths)
    deltas = {name.removeprefix(DELTA_PREFIX): tensor for name, tensor in tensors.items()}
    other = [name for name in tensors if not name.removeprefix(DELTA_PREFIX) or not name.startswith(DELTA_PREFIX)]
    if other or not deltas:
        holds = show(other[0]) if other else "no tensors"
        raise EditError(
            f"{path} holds {holds}, expected changes of layers ({DELTA_PREFIX}...); train or fetch it again"
        )
    return LayerEdit(concepts, deltas)


def read_piece(paths: Sequence[Path]) -> tuple[Path, list[str], dict[str, Tensor], dict[str, str]]:
    """Returns the one file that paths come to, the concepts that it names, its tensors and its metadata, checked.

    Raises:
        FileNotFoundError: there is no such file.
        EditError: several files, or one that is damaged, names no concepts or holds what is no finite number.
    """
    path = _only(paths)
    try:
        check_sum(path, name=path.name)
        check_header(path)
        with safe_open(str(path), "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except GateFileError as error:
        raise EditError(str(error)) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise EditError(f"{path} is damaged or cut off ({told(error)}); train or fetch it again") from None
    named, concepts = metadata.get("concepts", ""), None
    with suppress(ValueError, RecursionError):
        concepts = json.loads(named)
    if not isinstance(concepts, list) or not concepts or not all(isinstance(name, str) for name in concepts):
        raise EditError(f"{path} names no concepts, got {show(named)}; train or fetch it again")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise EditError(f"{path}: {told(name, 80)} holds what is no finite number; train it again")
    return path, concepts, tensors, metadata


def _only(paths: Sequence[Path]) -> Path:
    """Returns the one file that paths come to, of equal ones any."""
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
    return path

"""Text maps at work: files of them are read, and a network's keys and values are those of the changed text.

    residual of projection l = W_l Σ_i δ_i(x)

Maps of all concepts are added up, so that a concept's map is put in and taken out without the others.
"""

# Axes: N concepts, B prompts, T tokens, D text width, H units, O projection width.

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cpe.methods.erased import Erased, check_header
from cpe.methods.pinpoint.storage.checks import GateFileError, check_sum
from cpe.methods.robust.maps import TextMap
from cpe.models.attachment import Attachment, network_of
from cpe.models.edits import check_free
from cpe.models.families.table import sites_of
from cpe.models.sites import innermost, weight_of, widths_of
from wording.foreign import show, told


class MapError(ValueError):
    """A text map that cannot be used, and why."""


class MappedTexts(Erased):
    """Concepts erased by changes of the text in front of all keys and values.

    Args:
        maps: by concept.

    Raises:
        MapError: there are none, or they are of different text widths.
    """

    def __init__(self, maps: Mapping[str, TextMap]) -> None:
        if not maps:
            raise MapError("there are no text maps; give at least one")
        widths = {concept: found.keys.shape[1] for concept, found in maps.items()}
        if len(set(widths.values())) > 1:
            raise MapError(f"maps of different base models cannot be put together: their text widths are {widths}")
        self.maps = dict(maps)
        self._joint = TextMap(*(torch.cat(parts) for parts in zip(*maps.values(), strict=True)))
        self._attachment: Attachment | None = None

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(self.maps)

    @property
    def text_width(self) -> int:
        """Width D of the text embeddings."""
        return self._joint.keys.shape[1]

    def change(self, text: Tensor) -> Tensor:
        """Returns what is added to text embeddings (B, T, D): text + change erases with nothing attached.

        Computed in single precision at least; gradients reach a text that asks for them.

        Raises:
            ValueError: the text's width is not the maps'.
        """
        if text.shape[-1] != self.text_width:
            raise ValueError(
                f"maps expect text width {self.text_width}, got {text.shape[-1]}; were they trained for another text "
                "encoder?"
            )
        computed = text if text.dtype == torch.float64 else text.float()
        with torch.autocast(text.device.type, enabled=False):
            return self._joint.to(computed).change(computed)

    def attach(self, pipe: Any) -> None:
        """Adds the residuals to a pipeline's U-Net (or to a U-Net itself) until `detach`.

        Raises:
            ValueError: the network has another text width, no cross-attention, or packed or fused projections.
            RuntimeError: something that erases is on it already, or its weights are offloaded.
        """
        if self._attachment is not None and self._attachment.active:
            raise RuntimeError("these maps are attached already; detach them first")
        network, sites = network_of(pipe), sites_of(pipe)
        width = widths_of(next(iter(sites.values())))[1]
        if width != self.text_width:
            raise MapError(
                f"maps expect text width {self.text_width}, the pipeline has {width}; were they trained for another "
                "base model?"
            )
        check_free(network, sites)
        weights = {path: weight_of(network, path) for path in sites}
        away = [path for path, weight in weights.items() if weight.is_meta]
        if away:
            raise RuntimeError(f"the weights of {away[0]} are offloaded; attach first, then offload")
        source = MapResiduals(self, {path: weight.detach().clone() for path, weight in weights.items()})
        projections = {path: innermost(module) for path, module in sites.items()}
        self._attachment = Attachment(pipe, network, projections, source)

    def detach(self) -> None:
        """Takes the residuals off again; does nothing if they are not on. `cpe.detach(pipe)` needs no maps."""
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of it is attached nowhere."""
        return {**vars(self), "_attachment": None}


class MapResiduals:
    """What maps add to one network's projections.

    Args:
        mapped: the maps.
        weights: W, (O, D) by module path, as they are when the maps are attached.
    """

    def __init__(self, mapped: MappedTexts, weights: Mapping[str, Tensor]) -> None:
        self.mapped, self.weights = mapped, dict(weights)

    def residuals(self, text: Tensor) -> dict[str, Tensor]:
        """Returns (B, T, O) by module path for a text (B, T, D), in its dtype; gradients reach one that asks."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and text.requires_grad):
            change = self.mapped.change(text)
            with torch.autocast(text.device.type, enabled=False):
                return {path: (change @ weight.to(change).T).to(text.dtype) for path, weight in self.weights.items()}


def to_tensors(found: TextMap) -> dict[str, Tensor]:
    """Returns a map as its file holds it."""
    return {name: part.detach().cpu().contiguous() for name, part in found._asdict().items()}


def read_maps(paths: Sequence[Path]) -> MappedTexts:
    """Reads text maps from their files; one that is given twice is loaded once.

    Raises:
        FileNotFoundError: there is no such file.
        MapError: a file is damaged, or holds no map; two are of one concept, or of different base models.
    """
    maps: dict[str, TextMap] = {}
    known: dict[bytes, Path] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        if content in known:
            continue
        known[content] = path
        concept, found = _read(path)
        if concept in maps:
            raise MapError(f"{path} is another map of {show(concept)} than one that is loaded; load one of them")
        maps[concept] = found
    return MappedTexts(maps)


def _read(path: Path) -> tuple[str, TextMap]:
    """Returns a file's concept and map."""
    try:
        check_sum(path, name=path.name)
        check_header(path)
        with safe_open(str(path), "pt") as opened:
            named = (opened.metadata() or {}).get("concepts", "")
            found = TextMap(*(opened.get_tensor(name).clone() for name in TextMap._fields))
    except GateFileError as error:
        raise MapError(str(error)) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise MapError(f"{path} is damaged or cut off ({told(error)}); train or fetch it again") from None
    concepts: Any = None
    with suppress(ValueError, RecursionError):
        concepts = json.loads(named)
    if not isinstance(concepts, list) or len(concepts) != 1 or not isinstance(concepts[0], str):
        raise MapError(f"{path} names no concept, got {show(named)}; train or fetch it again")
    units = found.thresholds.numel()
    if found.keys.dim() != 2 or 0 in found.keys.shape or found.thresholds.shape != (len(found.keys),):
        raise MapError(f"{path}: keys have shape {tuple(found.keys.shape)} for {units} thresholds")
    if found.values.shape != found.keys.shape:
        raise MapError(f"{path}: values have shape {tuple(found.values.shape)}, keys {tuple(found.keys.shape)}")
    if not all(part.is_floating_point() and part.isfinite().all() for part in found):
        raise MapError(f"{path} holds what is no finite number; train it again")
    return concepts[0], TextMap(*(part.float() for part in found))

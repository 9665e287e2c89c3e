"""Gate files: the released safetensors layout, read and written.

One file may hold several gates of one shape (leading concept axis). Metadata carries `prompts`, `rank` and
`alpha` as released, and `tied_qk`; files without it were trained with tied queries and keys.

A file may come from anywhere: what it says of itself is checked before a tensor is read, and tensors that no gate has
stay unread.
"""

# Axes: N concepts, D text width, O projection width, S adapter rank, R gate rank.

import json
import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cpe.methods.erased import check_header
from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.storage.checks import (
    ALPHA,
    ATTENTION,
    CHANGE,
    DOWN,
    KEY_KEY,
    QUERY_KEY,
    SCORE_KEY,
    SITE_PREFIX,
    UP,
    GateFileError,
    check_sum,
    keys_of,
    module_path,
    shapes_of,
)
from wording.foreign import show, told


@dataclass(frozen=True)
class LoadedGates:
    """Gates of one shape as a file holds them.

    Attributes:
        concepts: N names.
        sites: module paths of the projections, in the order of the gates' columns.
        gates: the parameters.
        change: what each code adds to the text where that changes in place of keys and values, (N, L·S, D); None: the
            file does not say.
    """

    concepts: tuple[str, ...]
    sites: tuple[str, ...]
    gates: Gates
    change: Tensor | None = None

    def without(self, concepts: Collection[str]) -> "LoadedGates":
        """Returns the gates of all other concepts; there may be none left."""
        places = [place for place, name in enumerate(self.concepts) if name not in concepts]
        names = tuple(self.concepts[place] for place in places)
        rows = torch.tensor(places, dtype=torch.long)
        return LoadedGates(names, self.sites, self.gates[rows], None if self.change is None else self.change[rows])


def to_tensors(gates: Gates, sites: Sequence[str], change: Tensor | None = None) -> dict[str, Tensor]:
    """Returns gates in the released layout, ready for safetensors.

    Args:
        gates: N of them.
        sites: module paths of their projections.
        change: what each code adds to the text, (N, L·S, D).
    """
    rank = gates.config.adapter_rank
    tensors = {QUERY_KEY: gates.query, KEY_KEY: gates.key, SCORE_KEY: gates.score}
    downs, ups = gates.down.split(rank, dim=2), gates.up.split(list(gates.widths), dim=2)
    for site, down, up in zip(sites, downs, ups, strict=True):
        key = SITE_PREFIX + site.replace(".", "_")
        tensors[f"{key}{DOWN}"] = down
        tensors[f"{key}{UP}"] = up
        tensors[f"{key}{ALPHA}"] = torch.tensor(gates.config.alpha)
    if change is not None:
        rows = dict(zip(sites, change.split(rank, dim=1), strict=True))
        order = sorted(sites, key=lambda site: SITE_PREFIX + site.replace(".", "_"))  # as files are read
        tensors[CHANGE] = torch.cat([rows[site] for site in order], dim=1)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def metadata_of(gates: Gates, concepts: Sequence[str]) -> dict[str, str]:
    """Returns the metadata that `to_tensors` goes with."""
    config = gates.config
    plain = all("," not in concept and concept == concept.strip() for concept in concepts)
    plain = plain and not concepts[0].startswith("[")
    return {
        "prompts": ",".join(concepts) if plain else json.dumps(list(concepts)),
        "rank": str(config.adapter_rank),
        "alpha": str(config.alpha),
        "tied_qk": str(config.tied_qk).lower(),
    }


def holds_gate(path: Path) -> bool:
    """Whether a safetensors file holds a gate, whole or in part; its tensors stay unread.

    Raises:
        GateFileError: the file is damaged or cut off.
    """
    try:
        check_header(path)
        with safe_open(str(path), "pt") as opened:
            return any(name.startswith(ATTENTION) for name in opened.keys())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise GateFileError(
            f"{path} is damaged or cut off ({str(error)[:200]}); fetch it again or take it away"
        ) from None


def read_gates(path: Path) -> LoadedGates:
    """Reads one gate file, ours or a released one.

    Raises:
        FileNotFoundError: no such file.
        GateFileError: the file is damaged, cut off or not the one its manifest names, lacks a tensor, or holds one of a
            shape that does not fit the others, of another dtype or with numbers that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no gate file {path}")
    try:
        check_sum(path)
        check_header(path)
        with safe_open(str(path), "pt") as opened:
            metadata = opened.metadata() or {}
            shapes = shapes_of(opened, path)
            keys = keys_of(shapes, path)
            wanted = [QUERY_KEY, KEY_KEY, SCORE_KEY, *(key + part for key in keys for part in (DOWN, UP))]
            wanted += [f"{key}{ALPHA}" for key in keys if f"{key}{ALPHA}" in shapes]
            wanted += [CHANGE] if CHANGE in shapes else []
            # Cloned, or what is checked here would change when the file is written to.
            tensors = {name: opened.get_tensor(name).clone() for name in wanted}
    except GateFileError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise GateFileError(
            f"{path} is damaged or cut off ({told(error)}); delete it and train or fetch that gate again"
        ) from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise GateFileError(f"{path}: {show(name)} holds a number that is not finite; train that gate again")
    return _from_tensors(keys, tensors, metadata, path)


def _from_tensors(keys: list[str], tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> LoadedGates:
    ups, downs = [tensors[f"{key}{UP}"] for key in keys], [tensors[f"{key}{DOWN}"] for key in keys]
    gates = Gates(
        config=_config(keys, tensors, metadata, path),
        widths=tuple(up.shape[-1] for up in ups),
        query=tensors[QUERY_KEY],
        key=tensors[KEY_KEY],
        score=tensors[SCORE_KEY],
        down=torch.cat(downs, dim=2),
        up=torch.cat(ups, dim=2),
    )
    return LoadedGates(
        _concepts(metadata, len(gates), path), tuple(module_path(key) for key in keys), gates, tensors.get(CHANGE)
    )


def _config(keys: list[str], tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> GateConfig:
    stored = {tensor.item() for name, tensor in tensors.items() if name.endswith(ALPHA)} or {1.0}
    if len(stored) > 1:
        raise GateFileError(f"{path}: alpha must be the same for all projections, got {show(sorted(stored))}")
    given = metadata.get("alpha") or stored.pop()
    try:
        config = GateConfig(
            gate_rank=tensors[QUERY_KEY].shape[-1],
            adapter_rank=tensors[f"{keys[0]}{DOWN}"].shape[-1],
            alpha=float(given),
            tied_qk=metadata.get("tied_qk", "true") == "true",
        )
    except ValidationError as error:
        detail = error.errors()[0]
        raise GateFileError(f"{path}: {detail['loc'][0]} is {show(detail['input'])}: {detail['msg']}") from None
    except ValueError:
        raise GateFileError(f"{path}: alpha must be one number, got {show(given)}") from None
    if not math.isfinite(config.alpha):
        raise GateFileError(f"{path}: alpha must be finite, got {config.alpha}")
    return config


def _concepts(metadata: dict[str, str], count: int, path: Path) -> tuple[str, ...]:
    prompts = metadata.get("prompts", path.stem)
    names: Any = [part.strip() for part in prompts.split(",")]
    if prompts.startswith("["):
        with suppress(ValueError, RecursionError):  # else it is a name that begins so
            names = json.loads(prompts)
    if len(names) != count or not all(isinstance(name, str) for name in names):
        names = [prompts] if count == 1 else [f"{path.stem} {index + 1}" for index in range(count)]
    return tuple(names)

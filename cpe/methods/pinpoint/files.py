"""Gate files: the released safetensors layout, read and written.

One file may hold several gates of one shape (leading concept axis). Metadata carries `prompts`, `rank` and
`alpha` as released, and `tied_qk`; files without it were trained with tied queries and keys.

A file may come from anywhere: what it says of itself is checked before a tensor is read, and tensors that no gate has
stay unread.
"""

# Axes: N concepts, D text width, O projection width, S adapter rank, R gate rank.

import hashlib
import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.gates import Gates
from wording.foreign import show, told

FILE_NAME = "gate.safetensors"
MANIFEST_NAME = "manifest.json"
_ATTENTION = "attention_gate.encoder_layer.slf_attn."
QUERY_KEY = f"{_ATTENTION}attention_module1.w_qs.weight"
KEY_KEY = f"{_ATTENTION}attention_module1.w_ks.weight"
SCORE_KEY = f"{_ATTENTION}gate.scaler.weight"
_SITE_PREFIX = "lora_unet_"
_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
DTYPES = ("F16", "BF16", "F32", "F64")
LARGEST_HEADER_BYTES = 4 << 20  # some 10,000 projections; parsed, a header takes up to 30 times its size
LARGEST_MANIFEST_BYTES = 16 << 20

Shapes = dict[str, tuple[int, ...]]  # by the tensor's name


class GateFileError(ValueError):
    """A gate file that cannot be used, and why."""


@dataclass(frozen=True)
class LoadedGates:
    """Gates of one shape as a file holds them.

    Attributes:
        concepts: N names.
        sites: module paths of the projections, in the order of the gates' columns.
        gates: the parameters.
    """

    concepts: tuple[str, ...]
    sites: tuple[str, ...]
    gates: Gates


def module_path(key: str) -> str:
    """Returns the module path a released key names: `lora_unet_mid_block_attentions_0` is `mid_block.attentions.0`."""
    path = re.sub(r"_(\d+)(?=_|$)", r".\1", key.removeprefix(_SITE_PREFIX))
    path = re.sub(r"(\.\d+)_", r"\1.", path)
    return re.sub(r"(attn[12])_", r"\1.", re.sub(r"^mid_block_", "mid_block.", path))


def to_tensors(gates: Gates, sites: Sequence[str]) -> dict[str, Tensor]:
    """Returns gates in the released layout, ready for safetensors."""
    rank = gates.config.adapter_rank
    tensors = {QUERY_KEY: gates.query, KEY_KEY: gates.key, SCORE_KEY: gates.score}
    downs, ups = gates.down.split(rank, dim=2), gates.up.split(list(gates.widths), dim=2)
    for site, down, up in zip(sites, downs, ups, strict=True):
        key = _SITE_PREFIX + site.replace(".", "_")
        tensors[f"{key}{_DOWN}"] = down
        tensors[f"{key}{_UP}"] = up
        tensors[f"{key}{_ALPHA}"] = torch.tensor(gates.config.alpha)
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
        _check_header(path)
        with safe_open(str(path), "pt") as opened:
            return any(name.startswith(_ATTENTION) for name in opened.keys())  # noqa: SIM118
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
        _check_sum(path)
        _check_header(path)
        with safe_open(str(path), "pt") as opened:
            metadata = opened.metadata() or {}
            shapes = _shapes(opened, path)
            keys = _keys(shapes, path)
            wanted = [QUERY_KEY, KEY_KEY, SCORE_KEY, *(key + part for key in keys for part in (_DOWN, _UP))]
            wanted += [f"{key}{_ALPHA}" for key in keys if f"{key}{_ALPHA}" in shapes]
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


def _check_sum(path: Path) -> None:
    """Compares the file with the manifest beside it, if there is one that speaks of it."""
    manifest = path.with_name(MANIFEST_NAME)
    if path.name != FILE_NAME or not manifest.exists():
        return
    try:
        with manifest.open("rb") as file:
            expected = json.loads(file.read(LARGEST_MANIFEST_BYTES)).get("sha256")
    except (ValueError, AttributeError, OSError, RecursionError):
        raise GateFileError(f"{manifest} is damaged; fetch that gate again") from None
    with path.open("rb") as file:
        if expected is not None and hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise GateFileError(f"{path} is not the file its manifest names (sha256 differs); fetch that gate again")


def _check_header(path: Path) -> None:
    """Refuses a header larger than a gate file's; safetensors itself sees to it that all lies within the file."""
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
    if claimed > LARGEST_HEADER_BYTES:
        raise ValueError(f"a header of {claimed:,} bytes, a gate file has {LARGEST_HEADER_BYTES:,} at most")


def _shapes(opened: Any, path: Path) -> Shapes:
    """Returns the shapes of a file's tensors, none of which is read."""
    shapes = {}
    for name in opened.keys():  # noqa: SIM118
        known = opened.get_slice(name)
        shapes[name] = tuple(known.get_shape())
        if name.startswith((_SITE_PREFIX, _ATTENTION)) and known.get_dtype() not in DTYPES:
            raise GateFileError(f"{path}: {show(name)} is of dtype {known.get_dtype()}, not of {', '.join(DTYPES)}")
    return shapes


def _keys(shapes: Shapes, path: Path) -> list[str]:
    """Returns the keys of the projections in order, once every shape has been found to fit the others."""
    keys = sorted(name.removesuffix(_DOWN) for name in shapes if name.endswith(_DOWN))
    missing = [key for key in (QUERY_KEY, KEY_KEY, SCORE_KEY) if key not in shapes]
    missing += [f"{key}{_UP}" for key in keys if f"{key}{_UP}" not in shapes]
    if missing or not keys:
        lacking = repr(told(missing[0])) if missing else "every lora_down tensor"
        raise GateFileError(f"{path} is no gate file: it lacks {lacking}")
    count, width, rank = _three(shapes, QUERY_KEY, path)
    adapter = _three(shapes, f"{keys[0]}{_DOWN}", path)[2]
    expected: Shapes = {KEY_KEY: (count, width, rank), SCORE_KEY: (count, width, 1)}
    expected |= {f"{key}{_DOWN}": (count, width, adapter) for key in keys}
    expected |= {f"{key}{_UP}": (count, adapter, _three(shapes, f"{key}{_UP}", path)[2]) for key in keys}
    expected |= {name: () for key in keys if shapes.get(name := f"{key}{_ALPHA}", (1,)) != (1,)}
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise GateFileError(f"{path}: {show(name)} has shape {show(shapes[name])}, expected {shape}")
    if len({module_path(key) for key in keys}) < len(keys):
        raise GateFileError(f"{path} names one projection by two keys; only one of them can be meant")
    return keys


def _three(shapes: Shapes, name: str, path: Path) -> tuple[int, ...]:
    if len(shapes[name]) != 3 or 0 in shapes[name]:
        raise GateFileError(f"{path}: {show(name)} has shape {show(shapes[name])}, expected three sizes above 0")
    return shapes[name]


def _from_tensors(keys: list[str], tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> LoadedGates:
    ups, downs = [tensors[f"{key}{_UP}"] for key in keys], [tensors[f"{key}{_DOWN}"] for key in keys]
    gates = Gates(
        config=_config(keys, tensors, metadata, path),
        widths=tuple(up.shape[-1] for up in ups),
        query=tensors[QUERY_KEY],
        key=tensors[KEY_KEY],
        score=tensors[SCORE_KEY],
        down=torch.cat(downs, dim=2),
        up=torch.cat(ups, dim=2),
    )
    return LoadedGates(_concepts(metadata, len(gates), path), tuple(module_path(key) for key in keys), gates)


def _config(keys: list[str], tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> GateConfig:
    stored = {tensor.item() for name, tensor in tensors.items() if name.endswith(_ALPHA)} or {1.0}
    if len(stored) > 1:
        raise GateFileError(f"{path}: alpha must be the same for all projections, got {show(sorted(stored))}")
    given = metadata.get("alpha") or stored.pop()
    try:
        config = GateConfig(
            gate_rank=tensors[QUERY_KEY].shape[-1],
            adapter_rank=tensors[f"{keys[0]}{_DOWN}"].shape[-1],
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

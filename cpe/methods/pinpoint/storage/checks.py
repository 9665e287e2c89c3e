"""What a gate file must be before anything of it is believed."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from wording.foreign import show, told

FILE_NAME = "gate.safetensors"
MANIFEST_NAME = "manifest.json"
ATTENTION = "attention_gate.encoder_layer.slf_attn."
QUERY_KEY = f"{ATTENTION}attention_module1.w_qs.weight"
KEY_KEY = f"{ATTENTION}attention_module1.w_ks.weight"
SCORE_KEY = f"{ATTENTION}gate.scaler.weight"
SITE_PREFIX = "lora_unet_"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
CHANGE = "text_change"  # beside the released tensors: rows by projection, in the order of their keys
DTYPES = ("F16", "BF16", "F32", "F64")
LARGEST_MANIFEST_BYTES = 16 << 20
Shapes = dict[str, tuple[int, ...]]  # by the tensor's name


class GateFileError(ValueError):
    """A gate file that cannot be used, and why."""


def module_path(key: str) -> str:
    """Returns the module path a released key names: `lora_unet_mid_block_attentions_0` is `mid_block.attentions.0`."""
    path = re.sub(r"_(\d+)(?=_|$)", r".\1", key.removeprefix(SITE_PREFIX))
    path = re.sub(r"(\.\d+)_", r"\1.", path)
    return re.sub(r"(attn[12])_", r"\1.", re.sub(r"^mid_block_", "mid_block.", path))


def check_sum(path: Path, *, name: str = FILE_NAME) -> None:
    """Compares the file with the manifest beside it, if there is one and the file has the name that it speaks of."""
    manifest = path.with_name(MANIFEST_NAME)
    if path.name != name or not manifest.exists():
        return
    try:
        with manifest.open("rb") as file:
            expected = json.loads(file.read(LARGEST_MANIFEST_BYTES)).get("sha256")
    except (ValueError, AttributeError, OSError, RecursionError):
        raise GateFileError(f"{manifest} is damaged; fetch that gate again") from None
    with path.open("rb") as file:
        if expected is not None and hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise GateFileError(f"{path} is not the file its manifest names (sha256 differs); fetch that gate again")


def shapes_of(opened: Any, path: Path) -> Shapes:
    """Returns the shapes of a file's tensors, none of which is read."""
    shapes = {}
    for name in opened.keys():  # noqa: SIM118
        known = opened.get_slice(name)
        shapes[name] = tuple(known.get_shape())
        if name.startswith((SITE_PREFIX, ATTENTION, CHANGE)) and known.get_dtype() not in DTYPES:
            raise GateFileError(f"{path}: {show(name)} is of dtype {known.get_dtype()}, not of {', '.join(DTYPES)}")
    return shapes


def keys_of(shapes: Shapes, path: Path) -> list[str]:
    """Returns the keys of the projections in order, once every shape has been found to fit the others."""
    keys = sorted(name.removesuffix(DOWN) for name in shapes if name.endswith(DOWN))
    missing = [key for key in (QUERY_KEY, KEY_KEY, SCORE_KEY) if key not in shapes]
    missing += [f"{key}{UP}" for key in keys if f"{key}{UP}" not in shapes]
    if missing or not keys:
        lacking = repr(told(missing[0])) if missing else "every lora_down tensor"
        raise GateFileError(f"{path} is no gate file: it lacks {lacking}")
    count, width, rank = _three(shapes, QUERY_KEY, path)
    adapter = _three(shapes, f"{keys[0]}{DOWN}", path)[2]
    expected: Shapes = {KEY_KEY: (count, width, rank), SCORE_KEY: (count, width, 1)}
    expected |= {f"{key}{DOWN}": (count, width, adapter) for key in keys}
    expected |= {f"{key}{UP}": (count, adapter, _three(shapes, f"{key}{UP}", path)[2]) for key in keys}
    expected |= {name: () for key in keys if shapes.get(name := f"{key}{ALPHA}", (1,)) != (1,)}
    expected |= {CHANGE: (count, len(keys) * adapter, width)} if CHANGE in shapes else {}
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

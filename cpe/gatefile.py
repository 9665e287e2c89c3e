"""Gate files: the released safetensors layout, read and written.

One file may hold several gates of one shape (leading concept axis). Metadata carries `prompts`, `rank` and
`alpha` as released, and `tied_qk`; files without it were trained with tied queries and keys.
"""

# Axes: N concepts, D text width, O projection width, S adapter rank, R gate rank.

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cpe.config import GateConfig
from cpe.gates import Gates

FILE_NAME = "gate.safetensors"
MANIFEST_NAME = "manifest.json"
_ATTENTION = "attention_gate.encoder_layer.slf_attn."
QUERY_KEY = f"{_ATTENTION}attention_module1.w_qs.weight"
KEY_KEY = f"{_ATTENTION}attention_module1.w_ks.weight"
SCORE_KEY = f"{_ATTENTION}gate.scaler.weight"
_SITE_PREFIX = "lora_unet_"


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
    return re.sub(r"^mid_block_", "mid_block.", path).replace("attn2_", "attn2.")


def to_tensors(gates: Gates, sites: Sequence[str]) -> dict[str, Tensor]:
    """Returns gates in the released layout, ready for safetensors."""
    rank = gates.config.adapter_rank
    tensors = {QUERY_KEY: gates.query, KEY_KEY: gates.key, SCORE_KEY: gates.score}
    downs, ups = gates.down.split(rank, dim=2), gates.up.split(list(gates.widths), dim=2)
    for site, down, up in zip(sites, downs, ups, strict=True):
        key = _SITE_PREFIX + site.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = down
        tensors[f"{key}.lora_up.weight"] = up
        tensors[f"{key}.alpha"] = torch.tensor(gates.config.alpha)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def metadata_of(gates: Gates, concepts: Sequence[str]) -> dict[str, str]:
    """Returns the metadata that `to_tensors` goes with."""
    config = gates.config
    return {
        "prompts": ",".join(concepts) if all("," not in c for c in concepts) else json.dumps(list(concepts)),
        "rank": str(config.adapter_rank),
        "alpha": str(config.alpha),
        "tied_qk": str(config.tied_qk).lower(),
    }


def read_gates(path: Path) -> LoadedGates:
    """Reads one gate file, ours or a released one.

    Raises:
        FileNotFoundError: no such file.
        GateFileError: the file is damaged or cut off, or lacks a tensor.
    """
    if not path.exists():
        raise FileNotFoundError(f"no gate file {path}")
    try:
        with safe_open(str(path), "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise GateFileError(
            f"{path} is damaged or cut off ({error}); delete it and train or fetch that gate again"
        ) from None
    _check_sum(path)
    return _from_tensors(tensors, metadata, path)


def _check_sum(path: Path) -> None:
    """Compares the file with the manifest beside it, if there is one that speaks of it."""
    manifest = path.with_name(MANIFEST_NAME)
    if path.name != FILE_NAME or not manifest.exists():
        return
    try:
        expected = json.loads(manifest.read_text()).get("sha256")
    except (ValueError, AttributeError):
        raise GateFileError(f"{manifest} is damaged; fetch that gate again") from None
    if expected is not None and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise GateFileError(f"{path} is not the file its manifest names (sha256 differs); fetch that gate again")


def _from_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> LoadedGates:
    missing = [key for key in (QUERY_KEY, KEY_KEY, SCORE_KEY) if key not in tensors]
    downs = {k.removesuffix(".lora_down.weight"): t for k, t in tensors.items() if k.endswith(".lora_down.weight")}
    missing += [f"{key}.lora_up.weight" for key in downs if f"{key}.lora_up.weight" not in tensors]
    if missing or not downs:
        raise GateFileError(f"{path} is no gate file: it lacks {missing[0] if missing else 'every lora_down tensor'}")
    keys = sorted(downs)
    ups = {key: tensors[f"{key}.lora_up.weight"] for key in keys}
    first = downs[keys[0]]
    count, width, rank = first.shape
    for name, tensor, shape in [
        (QUERY_KEY, tensors[QUERY_KEY], (count, width, tensors[QUERY_KEY].shape[-1])),
        (KEY_KEY, tensors[KEY_KEY], tuple(tensors[QUERY_KEY].shape)),
        (SCORE_KEY, tensors[SCORE_KEY], (count, width, 1)),
        *[(key, downs[key], (count, width, rank)) for key in keys],
        *[(key, ups[key], (count, rank, ups[key].shape[-1])) for key in keys],
    ]:
        if tuple(tensor.shape) != shape:
            raise GateFileError(f"{path}: {name} has shape {tuple(tensor.shape)}, expected {shape}")
    alpha = metadata.get("alpha") or tensors.get(f"{keys[0]}.alpha", torch.tensor(1.0)).item()
    config = GateConfig(
        gate_rank=tensors[QUERY_KEY].shape[-1],
        adapter_rank=rank,
        alpha=float(alpha),
        tied_qk=metadata.get("tied_qk", "true") == "true",
    )
    gates = Gates(
        config=config,
        widths=tuple(ups[key].shape[-1] for key in keys),
        query=tensors[QUERY_KEY],
        key=tensors[KEY_KEY],
        score=tensors[SCORE_KEY],
        down=torch.cat([downs[key] for key in keys], dim=2),
        up=torch.cat([ups[key] for key in keys], dim=2),
    )
    return LoadedGates(_concepts(metadata, count, path), tuple(module_path(key) for key in keys), gates)


def _concepts(metadata: dict[str, str], count: int, path: Path) -> tuple[str, ...]:
    prompts = metadata.get("prompts", path.stem)
    names = json.loads(prompts) if prompts.startswith("[") else [part.strip() for part in prompts.split(",")]
    if len(names) != count:
        names = [prompts] if count == 1 else [f"{path.stem} {index + 1}" for index in range(count)]
    return tuple(names)

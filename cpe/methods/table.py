"""All ways of erasing, by name: a new one is a folder and a row. Nothing of them is loaded before it is asked for."""

from importlib import import_module
from typing import Any

from wording.foreign import show

METHODS = {
    "cpe": "cpe.methods.pinpoint.method:PINPOINT",
    "uce": "cpe.methods.uce.method:UCE",
    "rece": "cpe.methods.rece.method:RECE",
    "cpe-robust": "cpe.methods.robust.method:ROBUST",
    "speed": "cpe.methods.speed.method:SPEED",
    "mace": "cpe.methods.mace.method:MACE",
    "esd-x": "cpe.methods.esd.method:ESD_X",
    "esd-u": "cpe.methods.esd.method:ESD_U",
    "concept-ablation": "cpe.methods.ablation.method:ABLATION",
    "negative-prompt": "cpe.methods.negative.method:NEGATIVE",
}
DEFAULT = "cpe"  # of lists and files that name none


def resolve(name: str) -> Any:
    """Returns a way of erasing by its name; `cpe.methods.base.method_of` says of what type.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in METHODS:
        raise ValueError(f"no method {show(name)}; there are {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(import_module(module), attribute)

"""The parts of a run, the most telling first, and what each is run in: a process of its own."""

import importlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "triton", "numpy", "transformers", "diffusers", "safetensors", "pydantic", "huggingface-hub")


@dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        name: its place in the result.
        function: "module:name" below this package; takes sizes, device, a cache folder and the seconds left.
        least_s: seconds below which it is not begun on a GPU.
    """

    name: str
    function: str
    least_s: float


PARTS = (
    Part("machine", "parts:machine", 0),
    Part("recorded_steps", "training_parts:recorded", 30),
    Part("attached", "drawing_parts:attached", 30),
    Part("hundred_gates", "training_parts:hundred", 40),
    Part("pictures", "drawing_parts:pictures", 40),
    Part("drawing_steps", "drawing_parts:steps", 25),
    Part("training_benchmark", "training_parts:benchmark", 45),
    Part("trained_gates", "training_parts:trained", 60),
)


def machine(sizes: Any, device: str, cache: Path, left: Callable[[], float]) -> dict[str, Any]:
    """Returns what this runs on."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "cpus": os.cpu_count(), "device": device}
    found["versions"] = {name: _version(name) for name in PACKAGES}
    if device.startswith("cuda"):
        card = torch.cuda.get_device_properties(device)
        found |= {"name": card.name, "mib": card.total_memory / 2**20, "capability": [card.major, card.minor]}
        found |= {"cuda": torch.version.cuda, "driver": _driver()}
        found["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return found


def run(name: str, *, device: str, tiny: bool, cache: Path, deadline: float) -> dict[str, Any]:
    """Runs one part in this process; a failure is a result."""
    start = time.time()
    try:
        import torch

        from scripts.on_gpu.sizes import FULL, TINY

        if not device.startswith("cuda"):
            torch.set_num_threads(1 if tiny else os.cpu_count() or 1)
        part = next(part for part in PARTS if part.name == name)
        module, function = part.function.split(":")
        work = getattr(importlib.import_module(f"scripts.on_gpu.{module}"), function)
        result = {"result": work(TINY if tiny else FULL, device, cache, lambda: deadline - time.time())}
        if device.startswith("cuda"):
            result["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    except Exception as error:
        import traceback

        told = traceback.format_exc().strip().splitlines()[-12:]
        result = {"failed": f"{type(error).__name__}: {error}"[:2000], "traceback": told}
    return result | {"seconds": time.time() - start}


def write(path: Path, value: Any) -> None:
    """Writes JSON all at once, so that whoever is stopped leaves the last whole one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except OSError as error:
        return str(error)

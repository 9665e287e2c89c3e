"""Peak memory of a stretch of work."""

import ctypes
import gc
import resource
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> float:
    """Starts counting anew and returns the MiB in use now; where counting cannot start anew, the peak so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # what was freed but kept would hide what comes next
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the most resident memory, counted from now on
    return peak_mib(device)


def peak_mib(device: torch.device) -> float:
    """Returns the most memory since `reset_peak`; on systems other than Linux, since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

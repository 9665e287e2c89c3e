"""Base models, opened once a process: a run needs one six times."""

from pathlib import Path
from typing import Any

_kept: dict[Any, tuple[Any, Any]] = {}  # one pipeline with its own sampler, by what it was opened from


def opened(base_model: str, device: str | None) -> Any:
    """Returns a base model's pipeline as it was when it was opened, whatever was done to it since.

    It is kept for as long as the same model is asked for on the same device, and its files are the same.
    """
    from cpe.models.attachment import detach
    from cpe.models.loading import load_pipeline

    key = base_model, device, files_at(base_model)
    if key not in _kept:
        _kept.clear()  # before the other one takes its memory
        pipe = load_pipeline(base_model, device=device)
        _kept[key] = pipe, pipe.scheduler
    pipe, scheduler = _kept[key]
    detach(pipe)  # what an error left on it
    pipe.scheduler = scheduler
    return pipe


def files_at(name: str | Path) -> tuple[Any, ...]:
    """What would tell that a model's folder was changed; nothing of a name on the hub, whose snapshots do not."""
    folder = Path(name)
    if not folder.is_dir():
        return ()
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in found)

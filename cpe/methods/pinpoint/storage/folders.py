"""Which gate files paths mean: files, and folders of any layout, ours or a released one."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cpe.methods.pinpoint.storage.files import holds_gate

NAMED_AT_MOST = 5


def gate_files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Returns the files with gates that paths mean, in order, none twice.

    Args:
        paths: one or several; of a folder, every `.safetensors` file below it that holds a gate counts, whatever it is
            called. Files of equal content are one.

    Raises:
        FileNotFoundError: a path does not exist, or no gate is below it.
        GateFileError: a file in a folder is damaged, so that nobody can say what it holds.
    """
    found: dict[str, Path] = {}
    for path in [Path(paths)] if isinstance(paths, str | Path) else map(Path, paths):
        for file in _below(path) if path.is_dir() else [path]:
            if not file.is_file():
                raise FileNotFoundError(f"there is no gate file {file}; give a gate file, or a folder of gates")
            with file.open("rb") as opened:
                found.setdefault(hashlib.file_digest(opened, "sha256").hexdigest(), file)
    return list(found.values())


def _below(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*.safetensors") if path.is_file() and not path.name.startswith("."))
    gates = [file for file in files if holds_gate(file)]
    if not gates:
        others = ", ".join(file.name for file in files[:NAMED_AT_MOST])
        seen = (
            f"of its {len(files)} .safetensors files none does ({others})" if files else "it has no .safetensors file"
        )
        raise FileNotFoundError(f"{folder} holds no gates: {seen}; give a gate file, a folder of gates or a bundle")
    return gates

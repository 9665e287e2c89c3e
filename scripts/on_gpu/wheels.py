"""The few packages that a machine with PyTorch and transformers lacks, as wheels in a folder of the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "build" / "gpu-wheels"
# What `cpe` and `benchmarks` import beyond PyTorch, transformers and what these bring themselves.
PACKAGES = (
    *("diffusers", "pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("requests", "urllib3", "charset-normalizer", "idna", "certifi"),  # without which diffusers refuses to load
)
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def requirements(constraints: Path = ROOT / "constraints.txt") -> list[str]:
    """Returns the packages at the versions that the project pins.

    Raises:
        ValueError: one of them has no pin.
    """
    pins = dict(line.split("==", 1) for line in constraints.read_text().split() if "==" in line)
    pins = {_normal(name): version for name, version in pins.items()}
    missing = [name for name in PACKAGES if name not in pins]
    if missing:
        raise ValueError(f"{constraints.name} pins no {', '.join(missing)}; add the version that the project runs with")
    return [f"{name}=={pins[name]}" for name in PACKAGES]


def pack(folder: Path = WHEELS) -> list[Path]:
    """Downloads the wheels, whatever Python and platform this is; replaces those of before."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", *platforms, "--dest", str(folder)]
    subprocess.run(command + requirements(), check=True)
    return sorted(folder.glob("*.whl"))


def unpack(folder: Path, target: Path) -> list[str]:
    """Unpacks all wheels of a folder side by side and returns their names; a wheel is a zip file of its modules."""
    found = sorted(folder.glob("*.whl"))
    for wheel in found:
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(target)
    return [wheel.name for wheel in found]


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


if __name__ == "__main__":
    for path in pack():
        print(f"{path.stat().st_size / 2**20:6.1f} MiB  {path.name}")

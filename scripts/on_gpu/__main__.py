"""Runs the parts one by one, each in a process of its own, within a clock: `python3 -m scripts.on_gpu OUT.json`.

A part that fails, hangs or takes the GPU down with it costs itself alone. After each the file holds all that is known.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.on_gpu.parts import PARTS, Part, run, write
from scripts.on_gpu.wheels import ROOT, WHEELS, unpack

SECONDS = 480
FILE = "on_gpu.json"
SITE = "site"  # where wheels are unpacked
ENDING_S = 3  # of the clock, kept to end a part that goes on too long and to write what is known


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes; returns 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="scripts.on_gpu", description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, help=f"the JSON file; without it $OUT/{FILE}")
    parser.add_argument("--device", default="cuda", help="such as cpu")
    parser.add_argument("--tiny", action="store_true", help="everything small, to try it on a CPU")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything; what does not fit is skipped")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="these alone")
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="folder of `make gpu-pack`")
    parser.add_argument("--run", nargs=3, metavar=("PART", "FOLDER", "DEADLINE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    out = chosen.out or (Path(os.environ["OUT"]) / FILE if os.environ.get("OUT") else None)
    if out is None:
        parser.error("give the JSON file to write, or set OUT to a folder")
    if chosen.run:
        name, folder, deadline = chosen.run
        sys.path.append(str(Path(folder) / SITE))  # behind what is installed
        cache = Path(folder) / "cache"
        write(out, run(name, device=chosen.device, tiny=chosen.tiny, cache=cache, deadline=float(deadline)))
        return 0
    return measure(chosen, out)


def measure(chosen: argparse.Namespace, out: Path) -> int:
    """Runs the chosen parts while there is time."""
    start, deadline = time.time(), time.time() + chosen.seconds
    parts = [part for part in PARTS if not chosen.parts or part.name in chosen.parts]
    result: dict[str, Any] = {"tiny": chosen.tiny, "seconds_allowed": chosen.seconds}
    with tempfile.TemporaryDirectory() as folder:
        result["wheels"] = unpack(chosen.wheels, Path(folder) / SITE)
        for part in parts:
            left = deadline - ENDING_S - time.time()
            if left <= (0 if chosen.tiny else part.least_s):
                result[part.name] = {
                    "skipped": f"{max(0, left):.0f} s are left, and it is begun with {part.least_s:.0f}"
                }
            else:
                result[part.name] = _in_a_process(part, chosen, Path(folder), left)
            result["seconds"] = time.time() - start
            write(out, result)
            print(f"{result['seconds']:6.1f} s  {part.name}: {_told(result[part.name])}", flush=True)
    return int(any("failed" in result[part.name] for part in parts))


def _in_a_process(part: Part, chosen: argparse.Namespace, folder: Path, left: float) -> dict[str, Any]:
    """Returns what a part found, or how it ended; at the end of the clock it is stopped with all that it started."""
    found, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    command = [sys.executable, "-m", "scripts.on_gpu", str(found), "--device", chosen.device]
    command += ["--tiny"] * chosen.tiny + ["--run", part.name, str(folder), str(time.time() + left)]
    with log.open("wb") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = child.wait(timeout=left)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if found.exists():
        return json.loads(found.read_text())
    end = log.read_text(errors="replace").splitlines()[-12:]
    if code is None:
        return {"failed": f"stopped after {left:.0f} s, when the time was up", "log": end}
    return {"failed": f"its process ended with {code}", "log": end}


def _told(found: dict[str, Any]) -> str:
    for key in ("failed", "skipped"):
        if key in found:
            return f"{key}: {found[key]}"
    return f"{found['seconds']:.1f} s"


if __name__ == "__main__":
    sys.exit(main())

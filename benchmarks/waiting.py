"""How long commands let people wait: whole processes from the key to the prompt, and the longest silence in between.

    python -m benchmarks.waiting [--rounds 5] [--json] [--against CHECKOUT]

erases a small list on the embedded model once, in a work folder of its own, then gives each command so often. With
`--against`, the code in another folder (an earlier checkout, say) takes turns with this one's.
"""

import argparse
import json
import os
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parents[1]
LIST = """\
name: few
domain: noun
base_model: embedded
profile: embedded
surrogate: object
targets: [rose, pizza]
kept: [cat]
templates: ["a {}", "a picture of a {}"]
anchors: {general: [animal, tree, table], pool: [dog, tulip, taco, bus], neighbors: 3}
training: {preset: emoji, changes: {stages: 1, first_steps: 40}}
evaluation: {as_published: true, templates: ["a picture of a {}"], seeds: 2}
bars: {erased_accuracy_at_most: 1.0, least_pictures: 1}
"""
COMMANDS: Mapping[str, tuple[Sequence[str], int]] = {  # words, and the exit code that belongs to them
    "--help": (["--help"], 0),
    "a list that is not there": (["erase", "no-such-list"], 2),
    "models": (["models"], 0),
    "results": (["results"], 0),
    "generate": (["generate", "a cat", "--out", "{folder}/drawn"], 0),
    "erase, nothing new": (["erase", "{folder}/few.yaml"], 0),
}


def wait(words: Sequence[str], code: int, checkout: Path, folder: Path) -> tuple[float, float]:
    """Runs a command as a process and returns the seconds until it has ended, and the longest without a word of it.

    Args:
        words: of the command, behind `cpe`.
        code: its exit code, as it should be.
        checkout: the folder of the code.
        folder: for what it reads and writes.

    Raises:
        RuntimeError: it ended with another exit code.
    """
    foreign = ("CPE_", "PREFECT_", "MLFLOW_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"CPE_WORK": str(folder / "work"), "PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-m", "flows.cli.app", *(word.format(folder=folder) for word in words)]
    said, silences = b"", []
    started = last = time.perf_counter()
    with subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while ready.select() and (part := os.read(process.stdout.fileno(), 65536)):
                said += part
                silences.append(time.perf_counter() - last)
                last += silences[-1]
    ended = time.perf_counter()
    if process.returncode != code:
        raise RuntimeError(f"`cpe {' '.join(words)}` must end with {code}, got {process.returncode}:\n{said.decode()}")
    return ended - started, max([*silences, ended - last])


def measure(checkouts: Mapping[str, Path], rounds: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns for every command and checkout the seconds of each round, their median, and the longest silence."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    with TemporaryDirectory(prefix="cpe-waiting-") as scratch:
        folder = Path(scratch)
        (folder / "few.yaml").write_text(LIST)
        words, code = COMMANDS["erase, nothing new"]
        for checkout in checkouts.values():
            wait(words, code, checkout, folder)
        for name, (words, code) in COMMANDS.items():
            taken: dict[str, list[tuple[float, float]]] = {which: [] for which in checkouts}
            for _ in range(rounds):
                for which, checkout in checkouts.items():
                    taken[which].append(wait(words, code, checkout, folder))
            found[name] = {
                which: {
                    "median_s": statistics.median(seconds for seconds, _ in each),
                    "seconds": [round(seconds, 3) for seconds, _ in each],
                    "silence_s": statistics.median(silence for _, silence in each),
                }
                for which, each in taken.items()
            }
    return found


def report(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Returns the figures as lines of text."""
    lines = [f"{'command':<26}{'':<10}{'median':>8}  {'fastest to slowest':<20}{'longest silence':>16}"]
    for name, checkouts in found.items():
        for which, each in checkouts.items():
            spread = f"{min(each['seconds']):.2f} to {max(each['seconds']):.2f} s"
            silence = f"{each['silence_s']:.2f} s"
            lines.append(f"{name:<26}{which:<10}{each['median_s']:>6.2f} s  {spread:<20}{silence:>16}")
    return "\n".join(lines)


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--against", type=Path, help="folder of the code that takes turns")
    given = parser.parse_args()
    checkouts = {"here": HERE} | ({"there": given.against.absolute()} if given.against else {})
    found = measure(checkouts, given.rounds)
    print(json.dumps(found, indent=1) if given.as_json else report(found))


if __name__ == "__main__":
    main()

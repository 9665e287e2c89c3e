"""A way of erasing of your own, through the whole chain: every text becomes the mean of the surrogate's.

    python examples/own_eraser.py lists/emoji.yaml

It forgets everything, which the kept concepts show: that is what the evaluation is for.
"""

import json
import sys
from pathlib import Path

import torch
import yaml

from cpe.methods.base import Method
from cpe.methods.erased import METHOD_KEY
from cpe.methods.lessons import Piece
from cpe.methods.table import METHODS
from cpe.methods.weights import read_edit
from cpe.terms.settings import Settings


class BluntConfig(Settings):
    """How much of every key and value goes, 0 to 1."""

    share: float = 1.0


class Blunt(Method):
    """One closed-form edit for all concepts: keys and values without their text."""

    name, title, version = "blunt", "blunt edits", 1
    settings, presets, joint, file_name = BluntConfig, {"published": BluntConfig()}, True, "blunt.safetensors"

    def train(self, lessons, texts, pipe, config, bench):
        """Returns one piece: a map of texts that is added to them in front of keys and values."""
        step = bench.begin(1, 0)
        step("edit")
        names = json.dumps([lesson.concept for lesson in lessons])
        text_map = -config.share * torch.eye(texts.table.shape[-1])
        return [Piece({"text_map": text_map}, {METHOD_KEY: "blunt", "concepts": names})]

    def load(self, paths):
        """Returns what erases, from the files."""
        return read_edit(paths)

    def seconds(self, pipe, text, config, concepts, cache):
        """Returns what `cpe plan` says of the training."""
        return 0.0

    def size(self, pipe, config, concepts):
        """Returns the bytes of its file."""
        return 4


BLUNT = Blunt()


def main(path: str) -> dict:
    """Erases a list by it, as a list of its own name, and returns the results."""
    METHODS["blunt"] = "own_eraser:BLUNT"
    listed = yaml.safe_load(Path(path).read_text())
    listed |= {"name": f"blunt-{listed['name']}", "method": "blunt", "training": {"preset": "published"}, "bars": {}}
    own = Path(path).with_name(f"{listed['name']}.yaml")
    own.write_text(yaml.safe_dump(listed, sort_keys=False))
    from flows.erase_and_evaluate import erase_and_evaluate

    results = erase_and_evaluate(str(own))
    for role in ("erased", "kept"):
        print(f"{role}: {results[role]['before']:.1%} recognised before, {results[role]['after']:.1%} after")
    return results


if __name__ == "__main__":
    main(sys.argv[1])

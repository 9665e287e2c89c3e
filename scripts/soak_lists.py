"""The lists of a soak, and what people do to them."""

import copy
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

NOUNS = ("rose", "pizza", "snake", "tiger", "guitar", "rocket")
MOST_TARGETS = 3
LIST: Mapping[str, Any] = {
    "domain": "noun",
    "base_model": "embedded",
    "profile": "embedded",
    "surrogate": "object",
    "kept": ["cat"],
    "templates": ["a {}", "a picture of a {}"],
    "anchors": {"general": ["animal", "tree", "table"], "pool": ["dog", "tulip", "taco", "bus"], "neighbors": 3},
    "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 20}},
    "bars": {"erased_accuracy_at_most": 1.0, "least_pictures": 1},
}


class SoakList:
    """A list that changes.

    Args:
        folder: of the lists.
        name: of the list.
        rng: decides what changes.
    """

    def __init__(self, folder: Path, name: str, rng: random.Random) -> None:
        self.name, self.path, self.rng = name, folder / f"{name}.yaml", rng
        self.content: dict[str, Any] = {
            **LIST,
            "name": name,
            "targets": [rng.choice(NOUNS)],
            "evaluation": {"as_published": True, "templates": ["a picture of a {}"], "seeds": 1},
        }
        self.before: list[dict[str, Any]] = []
        self.held = False  # a person rolled back, and has not lifted it
        self._write()

    @property
    def model(self) -> str:
        """Its registered model."""
        return f"cpe-{self.name}"

    def change(self) -> str:
        """Does one thing that people do, and returns what."""
        ways = [self._add, self._remove, self._put_back, self._reseed, self._roll_back, self._lift]
        self.rng.shuffle(ways)
        return next(done for way in ways if (done := way()))

    def _add(self) -> str:
        absent = [noun for noun in NOUNS if noun not in self.content["targets"]]
        if len(self.content["targets"]) >= MOST_TARGETS:
            return ""
        self._keep()
        self.content["targets"].append(self.rng.choice(absent))
        return self._write()

    def _remove(self) -> str:
        if len(self.content["targets"]) < 2:
            return ""
        self._keep()
        self.content["targets"].remove(self.rng.choice(self.content["targets"]))
        return self._write()

    def _put_back(self) -> str:
        earlier = [each for each in self.before if each != self.content]
        if not earlier:
            return ""
        self.content = copy.deepcopy(self.rng.choice(earlier))
        return "put back: " + self._write()

    def _reseed(self) -> str:
        self._keep()
        self.content["evaluation"]["seeds"] = self.content["evaluation"]["seeds"] % 3 + 1
        return self._write()

    def _roll_back(self) -> str:
        from artifacts.registry.registry import RegistryError
        from tasks.desk.versions import roll_back
        from tasks.here.places import Places

        try:
            version, left = roll_back(Places.from_environment(), self.model, "the soak tries it")
        except RegistryError:  # no version before it
            return ""
        self.held = True
        return f"rolled back from version {left} to {version}"

    def _lift(self) -> str:
        from tasks.desk.versions import lift
        from tasks.here.places import Places

        if not self.held:
            return ""
        self.held = False
        versions = lift(Places.from_environment(), self.model, "the soak goes on")
        return f"lifted: versions {', '.join(map(str, versions))}"

    def _keep(self) -> None:
        self.before.append(copy.deepcopy(self.content))

    def _write(self) -> str:
        part = self.path.with_suffix(".part")
        part.write_text(yaml.safe_dump(self.content))
        part.replace(self.path)
        return f"targets {', '.join(self.content['targets'])}; {self.content['evaluation']['seeds']} seed(s)"

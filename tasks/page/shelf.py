"""The versions that a page can erase with, and what each was made of; loaded once, looked up every time."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.registry.registry import ModelVersion
from artifacts.registry.versions import CHAMPION, FILES_HASH, MODEL_PREFIX
from cpe.lists.reading import ConceptListError, load_list
from cpe.lists.schema import ConceptList
from tasks.here.places import Places

if TYPE_CHECKING:
    from cpe.methods.erased import Erased

KEPT_LOADED = 4  # versions


@dataclass(frozen=True)
class Taken:
    """A version taken from the shelf.

    Attributes:
        version: as the registry has it now.
        erased: what erases; shared, so it is never changed, only copied.
        concepts: the list of its name as it is now, None where there is none.
    """

    version: ModelVersion
    erased: "Erased"
    concepts: ConceptList | None


class Shelf:
    """Registered versions of one base model.

    Args:
        places: where the registry, the store and the lists are.
        base_model: whose versions are shown; None shows those of any.
        model: only this registered model's.
        files: of lists that lie elsewhere than the others, by their registered model.
    """

    def __init__(
        self,
        places: Places,
        *,
        base_model: str | None = None,
        model: str | None = None,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        self.places, self.base_model, self.model = places, base_model, model
        self._files = dict(files or {})
        self._loaded: OrderedDict[tuple[str, int, str], Erased] = OrderedDict()
        self._lock = threading.Lock()

    def versions(self) -> list[ModelVersion]:
        """Returns the versions there are, champions first, then newest first.

        Raises:
            RegistryError: the registry cannot be read.
        """
        registry = self.places.registry()
        found = registry.versions(self.model) if self.model else registry.models()
        fitting = [each for each in found if self.base_model in (None, each.tags.get("base_model", self.base_model))]
        return sorted(fitting, key=lambda each: CHAMPION not in each.aliases)

    def take(self, reference: str) -> Taken:
        """Looks a version up and loads what erases, unless it is loaded already.

        Raises:
            RegistryError: there is no such version any more, its files are gone or damaged.
            ValueError: its files are whole, and no gates that can be read here.
        """
        registry = self.places.registry()
        version = registry.resolve(reference)
        key = version.name, version.version, version.tags.get(FILES_HASH, "")
        with self._lock:  # two visitors never bring the same version at once
            if key not in self._loaded:
                from cpe.methods.erased import Erased

                exactly = f"{version.name}/{version.version}"
                folder = registry.fetch_once(exactly, self.places.work / "fetched" / "models")
                self._loaded[key] = Erased.load(folder)
            self._loaded.move_to_end(key)
            while len(self._loaded) > KEPT_LOADED:
                self._loaded.popitem(last=False)
            return Taken(version, self._loaded[key], self.list_of(version.name))

    def list_of(self, model: str) -> ConceptList | None:
        """Returns the list that a registered model is made from; None where there is none that can be read."""
        path = self._files.get(model) or self.places.lists() / f"{model.removeprefix(MODEL_PREFIX)}.yaml"
        try:
            return load_list(path)
        except ConceptListError:
            return None


def reference_of(version: ModelVersion) -> str:
    """Returns how a version is asked for, whatever alias moves: "cpe-emoji/3"."""
    return f"{version.name}/{version.version}"


def label_of(version: ModelVersion) -> str:
    """Returns what a version is called where it is chosen: its number, its standing, how many concepts it erases."""
    names = version.tags.get("erased", "")
    shown = names if len(names) <= 40 else f"{names[:39].rpartition(', ')[0]} …"
    standing = [*version.aliases, *(["rolled back"] if version.is_rolled_back else [])]
    return " · ".join(part for part in (reference_of(version), ", ".join(standing), shown) if part)

"""What a way of erasing is: one interface for all of them. Free of torch until something is trained or loaded."""

# Axes: B prompts, T tokens, D text width.

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpe.methods.erased import Erased
from cpe.methods.lessons import Bench, Curve, Encoded, Lesson, Piece
from cpe.methods.table import resolve
from cpe.terms.settings import Settings
from wording.foreign import show

if TYPE_CHECKING:
    from torch import Tensor


# What whoever holds the files can undo.
BESIDE = "lies beside the model: whoever leaves its files out draws with the untouched one"
IN_WEIGHTS = (
    "lies in the weights and stays in a model that is saved with them: whoever has the base model has it back, and "
    "whoever has the edit's file can take it off again"
)


class Method(ABC):
    """A way of erasing.

    Attributes:
        name: as lists and files have it.
        title: what it is, in a few words, for people.
        version: raised when training gives something else from the same settings; part of every address.
        settings: what can be set, as a model.
        presets: settings by name.
        joint: whether all concepts are trained together into one piece, or each into its own.
        file_name: of a piece's file.
        removal: what whoever holds the files can undo, in words that follow its name.
        seeded: whether another training seed gives something else; False where nothing is drawn, as in a closed form.
    """

    name: str
    title: str
    version: int
    settings: type[Settings]
    presets: Mapping[str, Any]
    joint: bool
    file_name: str
    seeded: bool = True
    removal: str = BESIDE

    def config(self, preset: str, changes: Mapping[str, Any] | None = None) -> Any:
        """Returns a preset with some of its settings changed; of a group of settings, some of them.

        Raises:
            ValueError: no such preset, or a setting that does not exist or is out of range.
        """
        if preset not in self.presets:
            raise ValueError(f"no training preset {show(preset)}; there are {', '.join(self.presets)}")
        values = self.presets[preset].model_dump()
        for name, value in (changes or {}).items():
            grouped = isinstance(values.get(name), dict) and isinstance(value, Mapping)
            values[name] = {**values[name], **value} if grouped else value
        return self.settings.model_validate(values)

    @abstractmethod
    def train(self, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: Any, bench: Bench) -> list[Piece]:
        """Trains concepts together and returns their pieces, one a concept, or one in all if `joint`.

        Args:
            lessons: what each concept is learned from; if not `joint`, all with as many target prompts.
            texts: the embeddings of their prompts.
            pipe: the base model, which stays as it is.
            config: of the kind `settings`.
            bench: where it is done.

        Raises:
            CheckpointError: `bench.checkpoint` is damaged or of another training.
        """

    @abstractmethod
    def load(self, paths: Sequence[Path]) -> Erased:
        """Reads pieces from files, folders or bundles."""

    @abstractmethod
    def seconds(self, pipe: Any, text: "Tensor", config: Any, concepts: int, cache: Path) -> float:
        """Returns what a concept's training takes on this device, timed on a little of it.

        Args:
            pipe: the base model.
            text: embeddings of some prompts, (B, T, D).
            config: of the kind `settings`.
            concepts: how many would train together.
            cache: as in `Bench`.
        """

    @abstractmethod
    def size(self, pipe: Any, config: Any, concepts: int) -> int:
        """Returns the bytes of all pieces of so many concepts."""

    def drawn_at(self, config: Any, guidance_scale: float) -> float:
        """Returns the guidance at which pictures are drawn where a profile has `guidance_scale`.

        Guidance where the profile has none (1 at most) makes each step of each picture two rows of the network.

        Args:
            config: of the kind `settings`.
            guidance_scale: the profile's.
        """
        return guidance_scale

    def curves(self, config: Mapping[str, Any], losses: Sequence[Mapping[str, Any]]) -> list[Curve]:
        """Returns the losses that a piece's manifest holds as curves; none where a method has none.

        Args:
            config: the manifest's `training`.
            losses: its `losses`.
        """
        return []


def method_of(name: str) -> Method:
    """Returns a way of erasing by its name.

    Raises:
        ValueError: there is none of that name.
    """
    method: Method = resolve(name)
    return method

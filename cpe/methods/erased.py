"""What any method's training comes to: concepts taken out of a model, put on a pipeline and taken off again."""

# Axes: B prompts, T tokens, D text width, N concepts.

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpe.methods.table import DEFAULT, METHODS, resolve
from wording.foreign import show

if TYPE_CHECKING:
    from torch import Tensor

UNREADABLE = "?"  # in place of the method of a file that cannot be read
METHOD_KEY = "method"  # in the metadata of a piece's file
LARGEST_HEADER_BYTES = 4 << 20  # some 10,000 projections; parsed, a header takes up to 30 times its size
GATE_PREFIX = "attention_gate."  # of a tensor that every gate of CPE has; gates name no method


class Erased(ABC):
    """Concepts taken out of a model: put on a pipeline, and taken off again.

    Example:
        >>> from cpe import Erased, fetch, load_pipeline
        >>> erased = Erased.load(fetch("models:/cpe-few@champion"))  # whatever the list's method is
        >>> sorted(erased.concepts)
        ['pizza', 'rose']
        >>> pipe = load_pipeline("embedded", device="cpu")
        >>> with erased.attached(pipe):
        ...     picture = pipe("a rose", num_inference_steps=2, guidance_scale=1.0).images[0]
    """

    @classmethod
    def load(cls, paths: str | Path | Iterable[str | Path]) -> "Erased":
        """Reads what any method trained from files, folders or bundles, and returns what erases with it.

        Args:
            paths: one path or several, all of one method.

        Raises:
            FileNotFoundError: a path does not exist or holds nothing that erases.
            ValueError: a file is damaged, of a method that is not known here, or the files do not fit each other.
        """
        given = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
        found: dict[str, list[Path]] = {}
        empty = []  # paths with nothing of a method that names itself in them
        for path in given:
            of_path = {file: _method_in(file) for file in _weight_files(path)}
            for file, name in of_path.items():
                found.setdefault(name, []).append(file)
            empty += [] if any(of_path.values()) else [path]
        named = [name for name in found if name and name != UNREADABLE]
        if len(named) > 1:
            raise ValueError(f"the files are of several methods ({', '.join(named)}); load those of one")
        if named in ([], [DEFAULT]):
            return resolve(DEFAULT).load(given)
        broken = [*found.get(UNREADABLE, []), *empty]
        if broken:
            raise FileNotFoundError(
                f"{broken[0]} does not exist, is damaged, or holds nothing of the method {named[0]!r} of the other "
                "files; fetch it again or leave it out"
            )
        return resolve(named[0]).load(found[named[0]])

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> "Erased":
        """Loads what was shared: a folder, a hub's repository ("owner/name"), or a registered version ("models:/…").

        Args:
            name: which of them.
            revision: branch, tag or commit of a repository; a commit never changes.

        Raises:
            FileNotFoundError, ValueError: as `load`; or the files are not those that their configuration names.
            OSError: the hub refuses, or cannot be reached.
        """
        if Path(name).is_dir():
            return Erased.load(name)
        if str(name).startswith("models:/"):
            return Erased.load(import_module("cpe").fetch(str(name)))  # the public face hands it on
        from cpe.methods.sharing import pull

        return Erased.load(pull(str(name), revision))

    @property
    @abstractmethod
    def concepts(self) -> tuple[str, ...]:
        """Names of the erased concepts."""

    @abstractmethod
    def attach(self, pipe: Any) -> None:
        """Erases in a pipeline, or in its network itself, until `detach`.

        Raises:
            ValueError: it was trained for another base model.
            RuntimeError: something is attached there already.
        """

    @abstractmethod
    def detach(self) -> None:
        """Puts the pipeline back to what it was, bit for bit; does nothing if nothing is attached."""

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Any]:
        """Erases within a `with` block; afterwards the pipeline is what it was, also after an exception."""
        self.attach(pipe)
        try:
            yield pipe
        finally:
            self.detach()

    def openness(self, text: "Tensor") -> "Tensor | None":
        """Returns how much each concept's own part acts at each token, (N, B, T) in 0..1, for text (B, T, D).

        None where a method has no such parts.
        """
        return None

    def residual_energy(self, pipe: Any, text: "Tensor") -> "Tensor | None":
        """Returns how much of what a pipeline's projections make of text is added by erasing, (B,).

        Σ_l ‖residual_l‖² / Σ_l ‖W_l x‖² of each prompt, for text x (B, T, D): 0 where nothing changes. None where a
        method adds no residuals. The pipeline has nothing attached.
        """
        return None


def check_header(path: Path) -> None:
    """Refuses a header larger than a piece's; safetensors itself sees to it that all lies within the file.

    Raises:
        ValueError: it is larger.
    """
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
    if claimed > LARGEST_HEADER_BYTES:
        raise ValueError(f"a header of {claimed:,} bytes, a gate file has {LARGEST_HEADER_BYTES:,} at most")


def _weight_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*.safetensors") if file.is_file() and not file.name.startswith("."))


def _method_in(file: Path) -> str:
    """Returns the method that a file is of; "" for what is no piece, UNREADABLE for what cannot be read.

    Raises:
        ValueError: it names a method that is not known here.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_header(file)
        with safe_open(str(file), "np") as opened:
            name = (opened.metadata() or {}).get(METHOD_KEY, "")
            gate = any(key.startswith(GATE_PREFIX) for key in opened.keys())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        return UNREADABLE  # whoever reads it says what is wrong
    if name and name not in METHODS:
        raise ValueError(
            f"{file} is of the method {show(name)}, which is not known here; there are {', '.join(METHODS)}"
        )
    return name or (DEFAULT if gate else "")

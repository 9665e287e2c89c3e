"""A bench to try erasing on: one pipeline that all visitors of a page share, each with gates set as they like.

Nothing that a visitor sets outlives the request: gates are copied with strengths of their own, attached while the lock
is held and taken off before it is given back.
"""

# Axes: N concepts, B prompts, T tokens, D text width.

import copy
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from artifacts.report.page import HeatMap, HeatPrompt
from cpe.evaluation.prompt_files import LONGEST_PROMPT
from cpe.methods.base import method_of
from cpe.methods.table import DEFAULT, METHODS
from cpe.terms.profiles import PROFILES, Profile
from tasks.here.places import Places
from tasks.page.shelf import Shelf, Taken

if TYPE_CHECKING:
    from PIL.Image import Image

    from cpe.methods.erased import Erased

MOST_GATES = 12  # rows of a heat map: the widest open ones
HIGHEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Asked:
    """One picture that somebody asks for.

    Raises:
        ValueError: there is no prompt, it is too long, or the seed is no whole number from 0.
    """

    prompt: str
    seed: int = 0
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("write a prompt first")
        if len(self.prompt) > LONGEST_PROMPT:
            raise ValueError(f"a prompt has at most {LONGEST_PROMPT:,} characters, this one {len(self.prompt):,}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= HIGHEST_SEED:
            raise ValueError(f"a seed is a whole number from 0, got {self.seed!r}")


@dataclass(frozen=True)
class Setting:
    """What erases, and how strongly.

    Attributes:
        version: such as cpe-emoji/3; None leaves the model as it is.
        off: concepts whose gates are left out.
        strengths: of other concepts' gates, where not 1.
    """

    version: str | None = None
    off: tuple[str, ...] = ()
    strengths: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """Pictures of one request, and how long drawing them took once it was this request's turn."""

    pictures: tuple["Image", ...]
    seconds: float


@dataclass(frozen=True)
class Heat:
    """Which token opened which gate.

    Attributes:
        map: of the widest open gates over one prompt.
        gates: how many there are in all.
        energy: share that residuals add to the energy of the prompt's keys and values, at the strengths set.
    """

    map: HeatMap
    gates: int
    energy: float


class Bench:
    """Draws before and after erasing, for any number of threads.

    Args:
        places: where the base model runs.
        base_model: "embedded", a folder or a hub name.
        shelf: of versions.
        profile: how pictures are made, a key of `PROFILES`.
    """

    def __init__(self, places: Places, base_model: str, shelf: Shelf, profile: str) -> None:
        if profile not in PROFILES:
            raise ValueError(f"no profile {profile!r}; there are {', '.join(PROFILES)}")
        self.base_model, self.shelf = base_model, shelf
        self.profile: Profile = PROFILES[profile]
        self._pipe: Any = places.loaded(base_model)
        self._lock = threading.Lock()  # round everything that uses the pipeline

    def concepts(self, reference: str) -> tuple[str, ...]:
        """Returns the concepts that a version erases, each once."""
        return tuple(dict.fromkeys(self.shelf.take(reference).erased.concepts))

    def can_be_set(self, reference: str) -> bool:
        """Whether a version's concepts are switched one by one: gates are, an edit of the weights is not."""
        return hasattr(self.shelf.take(reference).erased, "without")

    def draw(self, asked: Sequence[Asked], setting: Setting, *, erases: bool = True) -> Drawn:
        """Draws pictures, with a setting's gates or, as the same request would be drawn, without.

        Raises:
            RegistryError: the version is gone or damaged.
            ValueError: its gates do not fit the base model, or it has none to set.
        """
        from cpe.models.drawing import PictureJob, generate

        taken = self.shelf.take(setting.version) if setting.version else None
        erased = self._set(taken, setting) if erases else None
        guidance, negative = self._way(taken, erases)
        jobs = [
            PictureJob(
                f"{number:06d}",
                each.prompt,
                each.seed,
                guidance if each.guidance_scale is None else each.guidance_scale,
                negative,
            )
            for number, each in enumerate(asked)
        ]
        with self._lock:
            began = time.perf_counter()
            if erased is None:
                drawn = dict(self._named(generate(self._pipe, jobs, self.profile)))
            else:
                with erased.attached(self._pipe):
                    drawn = dict(self._named(generate(self._pipe, jobs, self.profile)))
            seconds = time.perf_counter() - began
        return Drawn(tuple(drawn[job.picture_id] for job in jobs), seconds)

    def heat(self, prompt: str, setting: Setting) -> Heat | None:
        """Returns which token opens which gate; None where nothing erases or the method has no gates."""
        from cpe.models.text import encode_prompts, token_words

        taken = self.shelf.take(setting.version) if setting.version else None
        erased = self._set(taken, setting)
        if erased is None:
            return None
        with self._lock:
            text = encode_prompts(self._pipe, [prompt])  # (1, T, D)
            openness, energy = erased.openness(text), erased.residual_energy(self._pipe, text)  # (N, 1, T), (1,)
            tokens = token_words(self._pipe, prompt)
        if openness is None or energy is None:
            return None
        rows = [[round(value, 4) for value in gate[: len(tokens)].tolist()] for gate in openness[:, 0]]
        order = sorted(range(len(rows)), key=lambda number: -max(rows[number]))[:MOST_GATES]
        names = [_told(erased.concepts[number], setting) for number in order]
        shown = HeatPrompt(prompt, tokens, [rows[number] for number in order])
        return Heat(HeatMap(names, [shown]), len(rows), energy[0].item())

    def _set(self, taken: Taken | None, setting: Setting) -> "Erased | None":
        """Returns what erases as it is set, this request's own; None if all is switched off."""
        if taken is None:
            return None
        erased: Any = taken.erased
        gone = [name for name in dict.fromkeys(erased.concepts) if name in setting.off]
        if not gone and not setting.strengths:
            return copy.copy(erased)
        if not hasattr(erased, "without"):
            raise ValueError(
                f"{taken.version.name}/{taken.version.version} erases by {taken.version.tags.get('method', 'a method')}"
                ", which has no gates to switch; leave them all on, as trained"
            )
        if len(gone) == len(set(erased.concepts)):
            return None
        own = erased.without(*gone) if gone else copy.copy(erased)
        for concept, strength in setting.strengths.items():
            if concept not in gone:
                own.strength[concept] = strength
        return own

    def _way(self, taken: Taken | None, erases: bool) -> tuple[float, str]:
        """Returns guidance and negative prompt, as an evaluation of the version's list draws."""
        own, concepts = self.profile.guidance_scale, taken.concepts if taken else None
        if taken is None or concepts is None:
            return own, ""
        negative = self.profile.negative_prompts.get(concepts.domain, "")
        name = taken.version.tags.get("method", DEFAULT)
        if not erases or name not in METHODS or name != concepts.method:
            return own, negative
        return method_of(name).drawn_at(concepts.training_config, own), negative

    @staticmethod
    def _named(drawn: Any) -> Any:
        return ((job.picture_id, picture) for job, picture in drawn)


def _told(concept: str, setting: Setting) -> str:
    strength = setting.strengths.get(concept, 1.0)
    return concept if strength == 1 else f"{concept} × {strength:g}"

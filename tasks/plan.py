"""What a run is about to do: the list, its gates with their addresses, and its pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from artifacts.hashing import content_hash
from cpe.evaluation.pictures import EvaluationSet
from cpe.lists.schema import ConceptList
from cpe.lists.templates import fill
from cpe.terms.profiles import PROFILES, Profile

if TYPE_CHECKING:
    pass


class GatePlan(BaseModel):
    """One gate to be had: what it erases and everything that determines it."""

    model_config = ConfigDict(frozen=True)

    concept: str
    names: tuple[str, ...]
    surrogate: str
    anchors: tuple[str, ...]
    address: str

    def prompts(self, templates: Sequence[str]) -> dict[str, list[str]]:
        """Returns the gate's target, surrogate and anchor prompts."""
        return {
            "target": [fill(template, name) for name in self.names for template in templates],
            "surrogate": [fill(template, self.surrogate) for _ in self.names for template in templates],
            "anchors": [fill(template, name) for name in self.anchors for template in templates],
        }


class Plan(BaseModel):
    """A list made ready: what every later task starts from.

    Attributes:
        source: the list's file.
        concepts: the list, with the profile that was asked for instead of its own.
        fingerprint: of the base model.
        text_fingerprint: of its tokenizer and text encoder.
        gates: one for each target.
        sets: what is drawn and measured.
        notes: what a reader of the results must know.
        listed_hash: of the list's content as its file said it; None in plans stored before it was noted.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    concepts: ConceptList
    fingerprint: str
    text_fingerprint: str
    gates: tuple[GatePlan, ...]
    sets: tuple[EvaluationSet, ...]
    notes: tuple[str, ...]
    listed_hash: str | None = None

    @property
    def profile(self) -> Profile:
        """How pictures are made."""
        return PROFILES[self.concepts.profile]

    @property
    def bundle_manifest(self) -> dict[str, Any]:
        """What determines the bundle: the list's name, base model and gates."""
        return {
            "format": 1,
            "list": self.concepts.name,
            "base_model": self.concepts.base_model,
            "base_fingerprint": self.fingerprint,
            "gates": {gate.concept: gate.address for gate in self.gates},
        }

    @property
    def bundle(self) -> str:
        """The bundle's id."""
        return content_hash(self.bundle_manifest)[:24]

    def gates_of(self, concepts: Sequence[str]) -> list[GatePlan]:
        """Returns these concepts' gates, in the order of the list."""
        return [gate for gate in self.gates if gate.concept in concepts]

"""What a run is about to do: the list, its gates with their addresses, and its pictures."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from artifacts.hashing import content_hash
from cpe.evaluation.pictures import EvaluationSet
from cpe.lists.schema import ConceptList
from cpe.methods.base import Method, method_of
from cpe.methods.lessons import Lesson, Prompt
from cpe.methods.table import DEFAULT
from cpe.terms.profiles import PROFILES, Profile
from cpe.terms.templates import fill


class GatePlan(BaseModel):
    """What erases one concept: what it is learned from, and the address of the piece that holds it.

    A gate of CPE is a piece of its own; a method that trains all concepts together has one address for all of them.
    """

    model_config = ConfigDict(frozen=True)

    concept: str
    names: tuple[str, ...]
    surrogate: str
    anchors: tuple[str, ...]
    address: str

    def lesson(self, templates: Sequence[str], seed: int) -> Lesson:
        """Returns what the concept is learned from, in the templates."""

        def prompts(names: Sequence[str]) -> tuple[Prompt, ...]:
            return tuple(Prompt(fill(template, name), name) for name in names for template in templates)

        surrogates = prompts([self.surrogate] * len(self.names))
        return Lesson(self.concept, prompts(self.names), surrogates, prompts(self.anchors), seed)


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
    def method(self) -> Method:
        """How the list is erased."""
        return method_of(self.concepts.method)

    @property
    def drawn_at(self) -> float:
        """The guidance at which the erased model draws, where the profile's own holds for the untouched one."""
        return self.method.drawn_at(self.concepts.training_config, self.profile.guidance_scale)

    @property
    def bundle_manifest(self) -> dict[str, Any]:
        """What determines the bundle: the list's name, base model and gates, and the method if it is not CPE."""
        method = {} if self.concepts.method == DEFAULT else {"method": self.concepts.method}
        return method | {
            "format": 1,
            "list": self.concepts.name,
            "base_model": self.concepts.base_model,
            "base_fingerprint": self.fingerprint,
            "gates": {gate.concept: gate.address for gate in self.gates},
        }

    @property
    def addresses(self) -> list[str]:
        """The pieces' addresses, in the order of the list."""
        return list(dict.fromkeys(gate.address for gate in self.gates))

    def seed_of(self, gate: GatePlan) -> int:
        """Returns a concept's own seed: it does not depend on its neighbours in the list."""
        return int(content_hash([self.concepts.seed, gate.concept])[:12], 16)

    def lesson(self, gate: GatePlan) -> Lesson:
        """Returns what one of the concepts is learned from."""
        return gate.lesson(self.concepts.templates, self.seed_of(gate))

    @property
    def bundle(self) -> str:
        """The bundle's id."""
        return content_hash(self.bundle_manifest)[:24]

    def gates_of(self, concepts: Sequence[str]) -> list[GatePlan]:
        """Returns these concepts' gates, in the order of the list."""
        return [gate for gate in self.gates if gate.concept in concepts]

"""Concept lists: what to erase, what to keep, how to train and when the result is good enough.

A list's content hash depends neither on comments nor on the order of keys of the file it was read from, nor on settings
that came later and that the list does not use: versions are registered with it.
"""

import hashlib
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from cpe.lists.bars import Bars
from cpe.lists.problems import path_of
from cpe.lists.rules import disagreements, one_of
from cpe.lists.sections import (
    Anchors,
    Evaluation,
    Limits,
    Name,
    Published,
    Target,
    Template,
    Training,
)
from cpe.methods.base import method_of
from cpe.methods.table import DEFAULT, METHODS
from cpe.terms.domains import DOMAINS
from cpe.terms.names import normalise, suggest
from cpe.terms.profiles import PROFILES
from cpe.terms.settings import Count, Settings, added_later
from wording.canonical import canonical_json


class ConceptList(Settings):
    """A list of concepts to erase, and all that its training and promotion need.

    Example:
        >>> wanted = ConceptList(
        ...     name="fruit", domain="noun", base_model="embedded", profile="embedded", surrogate="object",
        ...     targets=[{"name": "apple"}], kept=["rose"], templates=["a {}"], anchors={"general": ["food"]},
        ...     training={"preset": "emoji"}, evaluation={"templates": ["one {}"]},
        ... )  # fmt: skip
        >>> wanted.model_name, wanted.erased_names
        ('cpe-fruit', ('apple',))

    Attributes:
        name: letters, digits and hyphens; the registered model is called `model_name`.
        domain: what the accuracy is measured on, a key of `cpe.terms.domains.DOMAINS`.
        base_model: "embedded", a folder in diffusers' layout, or a name on the hub.
        profile: how pictures are made, a key of `cpe.terms.profiles.PROFILES`.
        method: the way of erasing, a key of `cpe.methods.table.METHODS`.
        comparison: how other methods are trained to be compared on it, where not by the preset that fits.
        surrogate: what every target turns into.
        targets: the concepts to erase.
        kept: names that must survive, evaluated.
        templates: training prompts, one "{}" each.
        limits: the most that one run may cost.
        published: what others measured.
        seed: everything random derives from it.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$", max_length=100)]
    domain: Annotated[str, AfterValidator(one_of("domain", DOMAINS))]
    base_model: Name
    profile: Annotated[str, AfterValidator(one_of("profile", PROFILES))]
    method: Annotated[str, AfterValidator(one_of("method", METHODS))] = added_later(DEFAULT)
    surrogate: Name
    targets: tuple[Target, ...] = Field(min_length=1)
    kept: tuple[Name, ...] = ()
    templates: tuple[Template, ...] = Field(min_length=1)
    anchors: Anchors
    training: Training
    comparison: dict[Annotated[str, AfterValidator(one_of("method", METHODS))], Training] = added_later({})
    evaluation: Evaluation
    bars: Bars = Bars()
    limits: Limits | None = added_later(None)
    published: tuple[Published, ...] = ()
    seed: Count = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _parts_agree(self) -> "ConceptList":
        problems = list(disagreements(self.model_dump(), lambda loc: f"of {path_of(loc)}"))
        if problems:
            raise ValueError("; ".join(f"{path_of(problem.loc)} {problem.text}" for problem in problems))
        return self

    @property
    def model_name(self) -> str:
        """The name under which the list's bundles are registered."""
        return f"cpe-{self.name}"

    @property
    def training_config(self) -> Any:
        """The preset with the list's changes, of the kind that its method has."""
        return method_of(self.method).config(self.training.preset, self.training.changes)

    @property
    def content_hash(self) -> str:
        """SHA-256 of the list's canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"), escaped=True)).hexdigest()

    @property
    def erased_names(self) -> tuple[str, ...]:
        """Names and aliases of all targets."""
        return tuple(name for target in self.targets for name in (target.name, *target.aliases))

    def target(self, name: str) -> Target:
        """Returns the target that has this name or alias.

        Raises:
            LookupError: no target has it.
        """
        for target in self.targets:
            if normalise(name) in map(normalise, (target.name, *target.aliases)):
                return target
        names = [target.name for target in self.targets]
        raise LookupError(f"list {self.name!r} erases no {name!r}{suggest(name, names[:20])}")

    def surrogate_of(self, name: str) -> str:
        """Returns what a target turns into: its own surrogate, or the list's."""
        return self.target(name).surrogate or self.surrogate

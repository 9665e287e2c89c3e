"""The sections of a concept list, and how much each may ask for.

Counts have upper limits because lists run unattended: ten times and more what any published experiment takes, so that
what exceeds one is a slip of the keyboard. What a whole list may cost is the list's own `Limits`.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from cpe.attacks.table import ATTACKS
from cpe.lists.problems import colon_text, kind_of, quoted
from cpe.terms.names import check_name, check_template, suggest
from cpe.terms.settings import Count, Settings, added_later

MOST_SEEDS = 1000  # a prompt; published evaluations take 1 to 5, the longest of ours 20
MOST_NEIGHBORS = 5000  # anchors of one target; the largest published pool has 1,734 names, training takes 32 a step
MOST_ATTACK_STEPS = 10_000  # of one search; published: 1,000 to 3,000
MOST_STARTS = 100


def _file_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.(csv|tsv)", value):
        raise ValueError("must be the name of a CSV file in the data folder, without any folder, such as coco.csv")
    return value


_Text = Annotated[str, StringConstraints(strip_whitespace=True)]
Name = Annotated[_Text, AfterValidator(check_name)]
Template = Annotated[_Text, AfterValidator(check_template)]
SetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$", max_length=100)]  # no path
FileName = Annotated[str, AfterValidator(_file_name)]


class Target(Settings):
    """One concept to erase; in a file a plain string stands for its name.

    Attributes:
        name: as it is written into prompts.
        aliases: other names of the same concept; never anchors.
        surrogate: what it turns into, where not the list's surrogate.
    """

    name: Name
    aliases: tuple[Name, ...] = ()
    surrogate: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        text = colon_text(value)
        if text is not None and not difflib.get_close_matches(str(next(iter(value))), cls.model_fields, 1):
            raise ValueError(f"must be a name, and YAML takes a colon for a key; put it in quotes: {quoted(text)}")
        if isinstance(value, (Mapping, Target)):
            return value
        raise ValueError(f"must be a name or a mapping with one, YAML reads it as {kind_of(value)}; put it in quotes")


class Anchors(Settings):
    """What must not change.

    Attributes:
        general: general words of the domain.
        pool: names among which the neighbours of a target are found; empty with word2vec: the whole vocabulary.
        neighbors: how many of them serve a target, at most MOST_NEIGHBORS.
        by: what nearness is measured with.
        vectors: a word2vec or GloVe file; None is the shipped table.
        protocol: "leak-free" leaves kept names out, so that the evaluation stays unseen; "as-released" lets them in,
            as the paper's own setup did.
    """

    general: tuple[Name, ...] = ()
    pool: tuple[Name, ...] = ()
    neighbors: Count = Field(50, ge=0, le=MOST_NEIGHBORS)
    by: Literal["text-encoder", "word2vec"] = "text-encoder"
    vectors: Name | None = None
    protocol: Literal["leak-free", "as-released"] = "leak-free"


class Training(Settings):
    """A training preset of the list's method, and the settings changed in it."""

    preset: str
    changes: dict[str, Any] = Field(default_factory=dict)


class Budget(Settings):
    """What each attack that learns its text may spend on each concept.

    Attributes:
        steps: of each search, at most MOST_ATTACK_STEPS; None: what the attack takes by itself.
        starts: searches, each from another start, at most MOST_STARTS; every one counts.
    """

    steps: Count | None = Field(None, ge=1, le=MOST_ATTACK_STEPS)
    starts: Count = Field(1, ge=1, le=MOST_STARTS)


class ListedAttack(Settings):
    """Other words by which erased concepts are asked for; in a file a plain string stands for the name of a known way.

    Attributes:
        name: a key of `cpe.attacks.table.ATTACKS`; of a file, any other.
        csv: a file in the data folder with one prompt a row.
        concept: the target that all its rows ask for; None: its column "concept" says of each row what it asks for.
        first_seed: every row's, in a file without a column of seeds; None is the evaluation's first.
        columns: what the file calls "prompt", "seed", "guidance_scale" and "concept", where that is none of the names
            that are known (docs/lists.md).
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$", max_length=40)]
    csv: FileName | None = added_later(None)
    concept: Name | None = added_later(None)
    first_seed: Annotated[int, Field(strict=True, ge=0, lt=2**62)] | None = added_later(None)
    columns: dict[str, Name] = added_later({})

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in ATTACKS:
                raise ValueError(f"names no attack{suggest(value, ATTACKS)}; a file of prompts has a name and a csv")
            return {"name": value}
        if isinstance(value, (Mapping, ListedAttack)):
            return value
        raise ValueError(f"must be the name of an attack, or a mapping with name and csv, got {kind_of(value)}")

    @model_validator(mode="after")
    def _one_kind(self) -> "ListedAttack":
        if self.csv is None and self.name not in ATTACKS:
            raise ValueError(f"{self.name!r} names no attack{suggest(self.name, ATTACKS)}; a file of prompts has a csv")
        if self.csv is None and (self.concept, self.first_seed, self.columns) != (None, None, {}):
            raise ValueError("has concept, first_seed or columns and no csv that they could be about; remove them")
        if self.csv is not None and self.name in ATTACKS:
            raise ValueError(f"is called {self.name!r}, which is an attack of its own; give the file another name")
        if self.concept is not None and "concept" in self.columns:
            raise ValueError(
                "names both one concept for all rows and a column that says it of each; remove one of them"
            )
        unknown = sorted(set(self.columns) - {"prompt", "seed", "guidance_scale", "concept"})
        if unknown:
            raise ValueError(f"renames the column {unknown[0]!r}; known: prompt, seed, guidance_scale, concept")
        return self


class Evaluation(Settings):
    """Prompts of the evaluation: every concept in every template with every seed, and attacks on the erased ones.

    Attributes:
        templates: prompts, one "{}" each.
        seeds: how many, at most MOST_SEEDS.
        first_seed: the first of them.
        also: other sets that must survive: of `lists/sets/`, or a list of `lists/`, whose kept concepts are meant.
        attacks: other words by which erased concepts are asked for, and texts that are learned to bring them back.
        budget: of attacks that learn.
        as_published: whether templates may be those of training too, because a published evaluation has them. It says
            how a file is read and changes nothing that is made: neither a list's hash nor stored plans have it.
    """

    templates: tuple[Template, ...] = Field(min_length=1)
    seeds: Count = Field(5, ge=1, le=MOST_SEEDS)
    first_seed: Count = Field(0, ge=0, lt=2**62)
    also: tuple[SetName, ...] = ()
    attacks: tuple[ListedAttack, ...] = added_later(())
    budget: Budget = added_later(Budget())
    as_published: bool = Field(False, strict=True, exclude=True)


class Limits(Settings):
    """The most that one run of a list may cost; a list that would cost more is refused before anything is made.

    Attributes:
        pictures: to be had, of both phases together, whether they are drawn already or not.
        hours: that what is still to do would take on one device like this one, as `cpe plan` estimates.
    """

    pictures: Count | None = Field(None, ge=1)
    hours: Annotated[float, Field(strict=True, gt=0)] | None = None


class Published(Settings):
    """Figures that others published for this experiment, to stand beside the measured ones.

    Attributes:
        source: where they were published.
        profile: how those pictures were made.
        figures: text by what it says.
    """

    source: Name
    profile: Name
    figures: dict[str, str] = Field(min_length=1)

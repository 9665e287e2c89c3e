"""What is drawn to evaluate a list: sets of prompts, streamed picture by picture; free of torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cpe.attacks.base import asked
from cpe.evaluation.prompt_files import read_prompts
from cpe.terms.names import normalise
from cpe.terms.profiles import Profile
from cpe.terms.settings import added_later
from cpe.terms.templates import fill

SHARD_PICTURES = 250
ATTACK = "attack-"  # how sets of attacks begin
CONTROL = "control-"  # and how those do in which an attack that learns asks for kept concepts

Role = Literal["erased", "kept", "control"]


@dataclass(frozen=True)
class PictureRow:
    """One picture of an evaluation.

    Attributes:
        picture_id: the set's name and a number within it.
        prompt_id: shared by the pictures of one prompt.
        prompt: the text.
        concept: what the prompt is about; None in a file of prompts that does not say.
        template: index of its template, or of its row in the file.
        seed: of its starting noise.
        guidance_scale: the row's own, or the profile's.
        negative_prompt: what to keep away from.
        start: which search of an attack learned the text that is drawn in place of the prompt; None: none did.
        frame: which one of its video it is, from 0; None: it is no frame.
    """

    picture_id: str
    prompt_id: str
    prompt: str
    concept: str | None
    template: int
    seed: int
    guidance_scale: float
    negative_prompt: str
    start: int | None = None
    frame: int | None = None

    @property
    def determined_by(self) -> tuple[str | int | float, ...]:
        """What of the row determines its picture."""
        frame = () if self.frame is None else (self.frame,)
        return (self.prompt, self.seed, self.guidance_scale, self.negative_prompt, *frame)


class EvaluationSet(BaseModel):
    """Prompts drawn and measured together: concepts in templates, or the rows of a CSV file.

    Attributes:
        name: "erased" and "kept" are the list's own.
        role: whether the pictures should lose their concept or keep it; "control", what an attack finds for kept ones.
        domain: of its concepts; chooses the negative prompt and what measures it.
        concepts: names, in the order they are drawn.
        templates: one "{}" each.
        seeds: how many each prompt is drawn with.
        first_seed: the first of them.
        csv: a file with one prompt a row, its seed and perhaps its guidance.
        columns: what the file calls "prompt", "seed" and "guidance_scale", where that is no known name.
        file_seed: of every row, where the file has no column of seeds.
        rows: of the file, those that are drawn.
        taken: which of its columns are read, in words.
        written: prompts that no template makes, each with its concept, in place of concepts and templates.
        search: the attack that learns what is drawn for each concept, likewise.
        steps: of each of its searches.
        starts: searches for each concept.
        about: of a file that attacks, the concept that is erased by what a row says that it asks for, as names are
            compared; other rows are not drawn. {"": concept}, where all rows ask for one and none says so.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    role: Role
    domain: str
    concepts: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    seeds: int = 1
    first_seed: int = 0
    csv: str | None = None
    columns: dict[str, str] = {}
    file_seed: int | None = None
    rows: int = 0
    taken: str = ""
    written: tuple[tuple[str, str], ...] = added_later(())
    search: str = added_later("")
    steps: int = added_later(0)
    starts: int = added_later(1)
    about: dict[str, str] = added_later({})

    def count(self, profile: Profile) -> int:
        """Returns how many pictures there are; of each video as many as are kept."""
        each = len(profile.kept) or 1
        if self.csv is not None:
            return min(self.rows, profile.rows_at_most or self.rows) * each
        texts = self.starts if self.search else len(self.templates)
        return (len(self.written) or len(self.concepts) * texts) * len(self._seeds(profile)) * each

    def pictures(self, profile: Profile) -> Iterator[PictureRow]:
        """Yields the set's pictures.

        Raises:
            ValueError: the CSV file has a bad row, or other rows than when it was looked at first.
        """
        rows = self._from_csv(profile) if self.csv is not None else self._from_templates(profile)
        if kept := profile.kept:
            rows = (
                replace(row, picture_id=f"{row.picture_id}-f{frame:03d}", frame=frame) for row in rows for frame in kept
            )
        yield from islice(rows, self.count(profile))

    def shards(self, profile: Profile) -> Iterator[list[PictureRow]]:
        """Yields the pictures, some hundred at a time; frames of one video stay together."""
        pictures, each = self.pictures(profile), len(profile.kept) or 1
        while shard := list(islice(pictures, max(1, SHARD_PICTURES // each) * each)):
            yield shard

    def _seeds(self, profile: Profile) -> range:
        return range(self.first_seed, self.first_seed + min(self.seeds, profile.seeds_at_most or self.seeds))

    def _from_templates(self, profile: Profile) -> Iterator[PictureRow]:
        negative = profile.negative_prompts.get(self.domain, "")
        filled = [
            (name, fill(text, name), place) for name in self.concepts for place, text in enumerate(self.templates)
        ]
        written = [(concept, prompt, at) for at, (concept, prompt) in enumerate(self.written)]
        searched = [(name, asked([name])[0], start) for name in self.concepts for start in range(self.starts)]
        number = 0
        for index, (concept, prompt, template) in enumerate(searched if self.search else written or filled):
            for seed in self._seeds(profile):
                name, prompt_id = f"{self.name}-{number:06d}", f"{self.name}-{index:06d}"
                guidance = profile.guidance_scale
                start = template if self.search else None
                yield PictureRow(name, prompt_id, prompt, concept, template, seed, guidance, negative, start)
                number += 1

    def _from_csv(self, profile: Profile) -> Iterator[PictureRow]:
        negative = profile.negative_prompts.get(self.domain, "")
        named = bool(self.about) and "" not in self.about
        read = read_prompts(Path(self.csv or ""), self.columns, seed=self.file_seed, concepts=named)
        asked = ((row, self.about.get(normalise(row.concept))) for row in read)
        for number, (row, concept) in enumerate(each for each in asked if each[1] or not self.about):
            name = f"{self.name}-{number:06d}"
            guidance = profile.guidance_scale if row.guidance_scale is None else row.guidance_scale
            yield PictureRow(name, name, row.prompt, concept, number, row.seed, guidance, negative)


def first_prompts(sets: Sequence[EvaluationSet], profile: Profile) -> Iterator[tuple[EvaluationSet, PictureRow]]:
    """Yields every concept's first picture, set by set; files of prompts have no concepts."""
    for each in sets:
        seen: set[str] = set()
        if each.csv is None:
            for picture in each.pictures(profile):
                if picture.concept is not None and picture.concept not in seen:
                    seen.add(picture.concept)
                    yield each, picture

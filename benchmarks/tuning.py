"""A search of a method's settings on the embedded model, on pictures apart from the evaluation's.

    python -m benchmarks.tuning lists/emoji.yaml speed emoji --try threshold=0.01,0.1 --try ridge=0.05,1

trains a list once for every combination and draws its erased and kept names in templates that the embedded model knows
and neither the list's training nor its evaluation has, with seeds from 1000 on. One line a combination: the shares of
pictures that the classifier takes for the name asked for, and the harmonic mean of what is erased and what is kept.
Neighbours among the anchors are the first of the list's pool, not the nearest.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file

from cpe.embedded.observers import EmbeddedClassifier, EmbeddedPeople
from cpe.embedded.people import all_people_templates
from cpe.embedded.subjects import PLAIN_TEMPLATES, STYLE_TEMPLATES, STYLES
from cpe.lists.anchors import anchor_names
from cpe.lists.reading import load_list
from cpe.lists.schema import ConceptList
from cpe.methods.base import Method, method_of
from cpe.methods.erased import Erased
from cpe.methods.lessons import Bench, Encoded, Lesson, Prompt
from cpe.models.drawing import PictureJob, generate
from cpe.models.loading import load_pipeline
from cpe.models.text import encode_prompts
from cpe.terms.domains import Domain, domain_of
from cpe.terms.profiles import PROFILES, Profile
from cpe.terms.templates import fill

FIRST_SEED = 1000


def lessons_of(concepts: ConceptList) -> list[Lesson]:
    """Returns what a list's concepts are learned from; evaluated names are no anchors."""

    def prompts(names: Sequence[str]) -> tuple[Prompt, ...]:
        return tuple(Prompt(fill(template, name), name) for name in names for template in concepts.templates)

    lessons = []
    for seed, target in enumerate(concepts.targets):
        names = (target.name, *target.aliases)
        anchors = anchor_names(concepts, target.name, concepts.anchors.pool, unseen=concepts.kept)
        surrogates = prompts([concepts.surrogate_of(target.name)] * len(names))
        lessons.append(Lesson(target.name, prompts(names), surrogates, prompts(anchors), seed))
    return lessons


def encoded(pipe: Any, lessons: Sequence[Lesson]) -> Encoded:
    """Returns the embeddings of all prompts of lessons, as caches hold them."""
    texts = list(dict.fromkeys(["", *(text for lesson in lessons for text in lesson.texts)]))
    return Encoded({text: row for row, text in enumerate(texts)}, encode_prompts(pipe, texts).half())


def apart_of(concepts: ConceptList, count: int) -> list[str]:
    """Returns templates of the embedded model that neither a list's training nor its evaluation has, spread evenly.

    Raises:
        ValueError: there are not so many.
    """
    if domain_of(concepts.domain).by_face:
        known = list(all_people_templates())
    else:
        known = [template.format(noun="a {}") for template in PLAIN_TEMPLATES]
        known += [each.format(noun="a {}", style=style) for each in STYLE_TEMPLATES for style in STYLES]
    seen = {each.casefold() for each in (*concepts.templates, *concepts.evaluation.templates)}
    apart = [each for each in known if each.casefold() not in seen]
    if len(apart) < count:
        raise ValueError(f"{len(apart)} templates are apart from training and evaluation, {count} are asked for")
    return [apart[number * len(apart) // count] for number in range(count)]


def jobs_of(names: Sequence[str], templates: Sequence[str], seeds: int) -> list[PictureJob]:
    """Returns the pictures of some names, each known by its name."""
    seeded = range(FIRST_SEED, FIRST_SEED + seeds)
    return [PictureJob(n, fill(t, n), seed) for n, t, seed in itertools.product(names, templates, seeded)]


def recognised(pipe: Any, jobs: Sequence[PictureJob], profile: Profile, domain: Domain) -> float:
    """Returns the share of pictures whose name the classifier sees in them."""
    drawn = list(generate(pipe, jobs, profile))
    observer = EmbeddedPeople() if domain.by_face else EmbeddedClassifier()
    seen = observer.look([picture for _, picture in drawn], [])[domain.recognised]
    return sum(noun == job.picture_id for noun, (job, _) in zip(seen, drawn, strict=True)) / len(drawn)


def trained(method: Method, lessons: Sequence[Lesson], texts: Encoded, pipe: Any, config: Any) -> Erased:
    """Trains and returns what erases."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "cache", Path(folder) / "checkpoint")
        pieces = method.train(lessons, texts, pipe, config, bench)
        paths = [Path(folder) / str(number) / method.file_name for number in range(len(pieces))]
        for path, piece in zip(paths, pieces, strict=True):
            path.parent.mkdir()
            save_file(dict(piece.tensors), path, dict(piece.metadata))
        return method.load(paths)


def combinations(tried: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields changes of settings, of "name=value,value" each: all combinations."""
    named = [part.partition("=") for part in tried]
    for values in itertools.product(*(listed.split(",") for _, _, listed in named)):
        yield {name: _value(text) for (name, _, _), text in zip(named, values, strict=True)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def search(
    concepts: ConceptList, method: Method, preset: str, tried: Sequence[str], templates: int, seeds: int
) -> None:
    """Trains every combination, draws, and prints a line each, the untouched model's first."""
    pipe, profile, lessons = load_pipeline(concepts.base_model), PROFILES[concepts.profile], lessons_of(concepts)
    texts, apart = encoded(pipe, lessons), apart_of(concepts, templates)
    domain = domain_of(concepts.domain)
    erased = jobs_of([lesson.concept for lesson in lessons], apart, seeds)
    kept = jobs_of(concepts.kept, apart, seeds)
    print(f"{len(erased)} erased and {len(kept)} kept pictures, templates {apart}")
    none: list[Mapping[str, Any] | None] = [None]
    for changes in itertools.chain(none, combinations(tried)):
        started = time.perf_counter()
        eraser = None if changes is None else trained(method, lessons, texts, pipe, method.config(preset, changes))
        took = time.perf_counter() - started
        with eraser.attached(pipe) if eraser else nullcontext():
            left, stays = (recognised(pipe, jobs, profile, domain) for jobs in (erased, kept))
        both = 2 * (1 - left) * stays / max(1 - left + stays, 1e-9)
        line = f"erased left {left:6.1%}  kept {stays:6.1%}  harmonic mean {both:.3f}  trained in {took:6.1f} s"
        print(line, "untouched" if changes is None else json.dumps(changes), flush=True)


def main() -> None:
    """Reads the command line and searches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list")
    parser.add_argument("method")
    parser.add_argument("preset")
    parser.add_argument("--try", action="append", default=[], dest="tried", metavar="NAME=VALUE,VALUE")
    parser.add_argument("--templates", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    method = method_of(given.method)
    search(load_list(given.list), method, given.preset, given.tried, given.templates, given.seeds)


if __name__ == "__main__":
    main()

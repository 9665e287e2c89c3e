"""Metrics: what classifier and CLIP say of the pictures, before and after."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from prefect import task

from artifacts.hashing import content_hash, file_hash
from artifacts.tables import IMAGES, SCORES, read_table, write_table
from cpe.metrics.score import Score
from tasks.places import Places
from tasks.prepare import Plan
from tasks.progress import progress
from tasks.train import bundle_folder

MEASURES = 3  # raised when the same pictures would get other scores
EMBEDDED_FEATURES = "over the embedded classifier's features"
PHASES = ("before", "after")


@dataclass(frozen=True)
class PhaseFeatures:
    """What the models see in one phase's pictures, row by row in the order of the images table.

    Attributes:
        noun: recognised noun, (P,) of str.
        style: recognised style, (P,) of str.
        features: the classifier's, (P, F).
        images: CLIP image features, (P, E).
        texts: CLIP text features of the pictures' prompts, (P, E).
        logit_scale: CLIP's.
    """

    noun: np.ndarray
    style: np.ndarray
    features: Any
    images: Any
    texts: Any
    logit_scale: float


@task(retries=1)
def measure(plan: Plan, bundle: str, before: str, after: str) -> str:
    """Scores both sets of pictures and the gates' openness, and stores the scores as one artifact.

    Args:
        plan: the list made ready.
        bundle: the gates' bundle.
        before: address of the untouched model's pictures.
        after: address of the erased model's pictures.

    Returns:
        The scores' address.
    """
    from cpe.models import EMBEDDED_FOLDER

    places = Places.from_environment()
    seen_by = [file_hash(EMBEDDED_FOLDER / name / "model.safetensors") for name in ("classifier", "clip")]
    address = content_hash([MEASURES, plan.concepts.domain, seen_by, bundle, before, after])[:24]
    if places.store().has(f"scores/{address}"):
        return address
    rows = _prompt_rows(plan, places.fetched(f"pictures/{before}"))
    seen = {}
    with progress("measuring", 2 * len(rows), "picture") as done:
        for phase, pictures in zip(PHASES, (before, after), strict=True):
            seen[phase] = _look(places, plan, places.fetched(f"pictures/{pictures}"), rows)
            done(len(rows))
    openness = _openness(places, plan, bundle)
    scores = [*_scores(plan, rows, seen), *_openness_scores(openness)]
    detail = {
        "openness": openness,
        "recognised": {
            phase: {"noun": seen[phase].noun.tolist(), "style": seen[phase].style.tolist()} for phase in PHASES
        },
    }
    with places.scratch() as folder:
        table = [
            {
                **{name: row[name] for name in ("metric", "phase", "role", "group")},
                **{name: row["score"][name] for name in ("value", "low", "high", "count", "unit")},
                "profile": plan.profile.name,
                "base_model": plan.concepts.base_model,
                "bundle": bundle,
            }
            for row in scores
        ]
        write_table(folder / "scores.parquet", table, SCORES)
        (folder / "detail.json").write_text(json.dumps(detail))
        manifest = {"format": 1, "bundle": bundle, "before": before, "after": after, "measures": MEASURES}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
        places.store().put(f"scores/{address}", folder)
    return address


def _prompt_rows(plan: Plan, pictures: Path) -> list[dict[str, Any]]:
    """Returns one row a picture: its file and everything known of its prompt."""
    prompts = {row.prompt_id: vars(row) for row in plan.evaluation()}
    return [{**prompts[image["prompt_id"]], **image} for image in read_table(pictures / "images.parquet", IMAGES)]


def _look(places: Places, plan: Plan, folder: Path, rows: list[dict[str, Any]]) -> PhaseFeatures:
    """Runs classifier and CLIP over one set of pictures."""
    import torch

    from cpe.embedded.classifier import PictureClassifier, classify
    from cpe.embedded.pixels import to_tensor
    from cpe.embedded.scorer import load_clip
    from cpe.models import EMBEDDED_FOLDER

    torch.set_num_threads(places.threads)
    pictures = to_tensor([_read(folder / row["path"]) for row in rows])
    classifier = PictureClassifier.load(EMBEDDED_FOLDER / "classifier")
    noun, style, features = classify(classifier, pictures)
    clip = load_clip()
    return PhaseFeatures(
        noun=np.array(classifier.nouns)[noun.numpy()],
        style=np.array(classifier.styles)[style.numpy()],
        features=features,
        images=clip.images(pictures),
        texts=clip.texts([row["prompt"] for row in rows]),
        logit_scale=clip.logit_scale,
    )


def _read(path: Path) -> Image.Image:
    """Returns a picture with its file closed again; an evaluation has more pictures than a process may open files."""
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _scores(plan: Plan, rows: list[dict[str, Any]], seen: dict[str, PhaseFeatures]) -> list[dict[str, Any]]:
    """Returns every score as a row: metric, phase, role, group and score."""
    from cpe.metrics.accuracy import accuracy, h0
    from cpe.metrics.clip_score import clip_score
    from cpe.metrics.frechet import frechet_distance, kernel_distance

    domain, other = plan.concepts.domain, plan.other_domain
    concept = np.array([row["concept"] for row in rows])
    role = np.array([row["role"] for row in rows])
    named = np.array([row[other] or "" for row in rows])  # the noun or style that is not the list's matter
    scored: list[dict[str, Any]] = []

    def add(metric: str, phase: str, role: str, group: str, score: Score) -> None:
        scored.append({"metric": metric, "phase": phase, "role": role, "group": group, "score": asdict(score)})

    for phase in PHASES:
        found = seen[phase]
        recognised, aside = (found.noun, found.style) if domain == "noun" else (found.style, found.noun)
        for part in ("erased", "kept"):
            mine = role == part
            if not mine.any():
                continue
            add(f"{domain}_accuracy", phase, part, "all", accuracy(recognised[mine], concept[mine]))
            for name in dict.fromkeys(concept[mine]):
                one = mine & (concept == name)
                add(f"{domain}_accuracy", phase, part, name, accuracy(recognised[one], concept[one]))
            told = mine & (named != "")
            if told.any():
                add(f"{other}_accuracy", phase, part, "all", accuracy(aside[told], named[told]))
                for name in dict.fromkeys(named[told]):
                    one = told & (named == name)
                    add(f"{other}_accuracy", phase, part, f"{other} {name}", accuracy(aside[one], named[one]))
                    add(f"{domain}_accuracy", phase, part, f"{other} {name}", accuracy(recognised[one], concept[one]))
            clip = clip_score(found.images[mine], found.texts[mine], found.logit_scale)
            add("clip_score", phase, part, "all", clip)
        told = named != ""
        if told.any():
            add(f"{other}_accuracy", phase, "all", "all", accuracy(aside[told], named[told]))
        right = recognised == concept
        if (role == "kept").any():
            add("h0", phase, "all", "all", h0(right[role == "erased"], right[role == "kept"]))
    for part in ("erased", "kept"):
        before, after = (seen[phase].features[role == part] for phase in PHASES)
        own = np.array([row["prompt_id"] for row in rows])[role == part]
        if len(set(own)) >= 2:
            add("fid_embedded", "after", part, "all", frechet_distance(before, after, name=f"FID {EMBEDDED_FEATURES}"))
            kid = kernel_distance(before, after, groups=(own, own), name=f"KID {EMBEDDED_FEATURES}")
            add("kid_embedded", "after", part, "all", kid)
    return scored


def _openness(places: Places, plan: Plan, bundle: str) -> list[dict[str, Any]]:
    """Returns how open every gate is at every token, for each concept in the first evaluation template."""
    import torch

    from cpe.eraser import Eraser
    from cpe.models import encode_prompts, token_words

    pipe = places.loaded(plan.concepts.base_model)
    eraser = Eraser.load(bundle_folder(places, bundle))
    prompts = [row for row in plan.evaluation() if row.template == 0]
    with torch.no_grad():
        openness = eraser.openness(encode_prompts(pipe, [row.prompt for row in prompts]))  # (N, B, T)
    shown = []
    order = [eraser.concepts.index(gate.concept) for gate in plan.gates]
    openness = openness[order]
    for index, row in enumerate(prompts):
        tokens = token_words(pipe, row.prompt)
        name = token_words(pipe, row.concept)[1:-1]
        # A causal text encoder sums the prompt up at the end token: the concept is told there too.
        carrying = _places(name, tokens) | {len(tokens) - 1}
        shown.append(
            {
                "concept": row.concept,
                "role": row.role,
                "prompt": row.prompt,
                "tokens": tokens,
                "of_concept": [place in carrying for place in range(len(tokens))],
                "gates": [gate.concept for gate in plan.gates],
                "openness": [[round(v, 4) for v in gate[: len(tokens)].tolist()] for gate in openness[:, index]],
            }
        )
    return shown


def _places(name: list[str], tokens: list[str]) -> set[int]:
    """Returns where the name's tokens stand, one after the other, among the prompt's."""
    starts = [i for i in range(len(tokens) - len(name) + 1) if tokens[i : i + len(name)] == name]
    return {start + offset for start in starts for offset in range(len(name))}


def _openness_scores(openness: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns how open gates get on the tokens that carry a concept (its own and the end token), a concept a value.

    For an erased concept that is its own gate, for a kept one whichever opens widest.
    """
    from cpe.metrics.score import mean_score

    seen: dict[str, list[float]] = {"erased": [], "kept": []}
    for row in openness:
        gates = dict(zip(row["gates"], row["openness"], strict=True))
        watched = [gates[row["concept"]]] if row["role"] == "erased" else list(gates.values())
        carrying = [place for place, counts in enumerate(row["of_concept"]) if counts]
        seen[row["role"]].append(max(gate[place] for gate in watched for place in carrying))
    return [
        {
            "metric": "gate_openness",
            "phase": "after",
            "role": role,
            "group": "all",
            "score": asdict(mean_score("gate openness", np.array(values), unit="share")),
        }
        for role, values in seen.items()
        if values
    ]

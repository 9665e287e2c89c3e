"""Prompt embeddings: encoded once, cached on this machine."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cpe.methods.lessons import Encoded
from tasks.here.places import Places
from tasks.here.progress import progress
from tasks.plan import GatePlan, Plan

if TYPE_CHECKING:
    from cpe.models.embeddings import EmbeddingCache


def encode_concepts(places: Places, plan: Plan, concepts: list[str]) -> str:
    """Encodes every prompt that these concepts' gates learn from, once, and returns their cache's name."""
    load_embeddings(places, plan, plan.gates_of(concepts))
    return embedding_cache(places, plan.text_fingerprint).folder.name


def load_embeddings(places: Places, plan: Plan, gates: Sequence[GatePlan]) -> Encoded:
    """Returns the embeddings of the gates' prompts and of the empty one.

    What the cache lacks of the gates' prompts is encoded first.
    """
    prompts = {"": None}
    for gate in gates:
        prompts.update(dict.fromkeys(plan.lesson(gate).texts))
    cache = embedding_cache(places, plan.text_fingerprint)
    return Encoded(*cached_texts(cache, list(prompts), lambda: places.loaded(plan.concepts.base_model)))


def embedding_cache(places: Places, text_fingerprint: str) -> "EmbeddingCache":
    """Opens the cache that every list, concept and model with this text encoder shares."""
    from cpe.models.embeddings import EmbeddingCache

    return EmbeddingCache(places.work / "embeddings" / text_fingerprint[:24])


def cached_texts(
    cache: "EmbeddingCache", prompts: Sequence[str], loaded: Callable[[], Any]
) -> tuple[dict[str, int], Any]:
    """Returns each prompt's row and the table of rows; `loaded` gives the pipeline if something is missing."""
    from cpe.models.text import encode_prompts

    missing = cache.missing(prompts)
    if missing:
        there, pipe = len(prompts) - len(missing), loaded()
        with progress("encoding prompts", len(prompts), "prompt", initial=there) as done:
            cache.fill(missing, partial(encode_prompts, pipe), progress=done)
    return dict(zip(prompts, cache.rows(prompts), strict=True)), cache.table

"""Unified Concept Editing: one closed-form change of all key and value matrices (Gandikota et al., WACV 2024).

The new matrices W' solve, for every projection alike,

    min Σ e |W' c − W n|² + Σ p |W' a − W a|² + λ |W' − W|²

over concepts' tokens c with what they turn into n, and kept tokens a. All have W on the left, so W' = W G with one
matrix for all projections, G = (λI + Σ e n cᵀ + Σ p a aᵀ)(λI + Σ e c cᵀ + Σ p a aᵀ)⁻¹: the edit is a change of the
text alone, and is stored as G − I.
"""

# Axes: B prompts, T tokens, D text width.

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from cpe.methods.lessons import Encoded, Lesson, Prompt
from cpe.methods.uce.config import TokensConfig, UceConfig

Place = Callable[[Prompt], int]  # where the last token of a prompt's name stands


def text_map(lessons: Sequence[Lesson], texts: Encoded, place: Place, config: UceConfig) -> Tensor:
    """Returns G − I, (D, D) float32; sums run in float64.

    Args:
        lessons: the concepts; an anchor of several counts once.
        texts: the embeddings of their prompts.
        place: where the last token of a prompt's name stands.
        config: the weights.

    Source: UCE, equation 7.
    """
    found = solve(
        concept_tokens(lessons, texts, place, config), list(kept_tokens(lessons, texts, place, config)), config
    )
    return (found - torch.eye(len(found), dtype=found.dtype)).float()


def solve(concepts: Sequence[tuple[Tensor, Tensor]], kept: Iterable[Tensor], config: UceConfig) -> Tensor:
    """Returns G, (D, D) float64.

    Args:
        concepts: of each concept, its tokens and what they turn into, (n, D) float64 each.
        kept: tokens that stay, (n, D) float64 each; every tensor counts on its mean.
        config: the weights.
    """
    width = concepts[0][0].shape[1]
    old = config.ridge * torch.eye(width, dtype=torch.float64)  # λI + Σ e c cᵀ + Σ p a aᵀ
    new = old.clone()  # λI + Σ e n cᵀ + Σ p a aᵀ
    for concept, surrogate in concepts:
        old += config.erase_weight / len(concept) * concept.T @ concept
        new += config.erase_weight / len(concept) * surrogate.T @ concept
    for tokens in kept:
        outer = config.keep_weight / len(tokens) * tokens.T @ tokens
        old += outer
        new += outer
    return torch.linalg.solve(old, new.T).T


def concept_tokens(
    lessons: Sequence[Lesson], texts: Encoded, place: Place, config: TokensConfig
) -> list[tuple[Tensor, Tensor]]:
    """Returns each concept's edited tokens over all its prompts, and what they turn into, (n, D) float64 each."""
    found = []
    for lesson in lessons:
        pairs = [_aligned(*both, texts, place, config) for both in zip(lesson.target, lesson.surrogate, strict=True)]
        concept, surrogate = (torch.cat(side) for side in zip(*pairs, strict=True))
        found.append((concept, surrogate))
    return found


def _aligned(
    target: Prompt, surrogate: Prompt, texts: Encoded, place: Place, config: TokensConfig
) -> tuple[Tensor, ...]:
    """Returns a prompt's edited tokens and those that they turn into, (n, D) each, name's end to name's end."""
    both = [_tokens(prompt, texts, place, config) for prompt in (target, surrogate)]
    shortest = min(map(len, both))
    return tuple(tokens[:shortest] for tokens in both)


def kept_tokens(lessons: Sequence[Lesson], texts: Encoded, place: Place, config: TokensConfig) -> Iterator[Tensor]:
    """Yields the tokens (n, D) of each anchor in all its prompts, and of the empty prompt."""
    prompts = {prompt for lesson in lessons for prompt in lesson.anchors}
    in_order = sorted(prompts, key=lambda prompt: (prompt.name, prompt.text))  # sums depend on it in their last bits
    for _, group in groupby(in_order, key=lambda prompt: prompt.name):
        yield torch.cat([_tokens(prompt, texts, place, config) for prompt in group])
    yield texts.empty.double()


def _tokens(prompt: Prompt, texts: Encoded, place: Place, config: TokensConfig) -> Tensor:
    return texts.of([prompt.text])[0].double()[token_span(place(prompt), config)]


def token_span(end: int, config: TokensConfig) -> slice:
    """Returns which of a prompt's tokens are edited or kept, its name's last one being at `end`."""
    return slice(end, end + 1 if config.tokens == "last" else None)


def name_ends(prompts: Iterable[Prompt], ids: Callable[[str], list[int]], begin: int = 1) -> dict[Prompt, int]:
    """Returns where the last token of each prompt's name stands.

    Args:
        prompts: whose names stand in them.
        ids: a text's tokens without start, end and padding.
        begin: tokens before the text's first.

    Raises:
        ValueError: a prompt is cut before its name ends, or the name is read otherwise there.
    """
    ends = {}
    for prompt in prompts:
        text, name = ids(prompt.text), ids(prompt.name)
        starts = [at for at in range(len(text) - len(name) + 1) if name and text[at : at + len(name)] == name]
        if not starts:
            raise ValueError(f"the prompt {prompt.text!r} does not hold {prompt.name!r} as the tokenizer reads it")
        ends[prompt] = begin + starts[-1] + len(name) - 1
    return ends

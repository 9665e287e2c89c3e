"""MACE's two closed forms: what other tokens tell of a concept is taken out, and adapters become one set of matrices.

Refinement (section 4.1) maps the tokens around a concept's name to those around the surrogate's, which leaves the
name's own: UCE's problem with other tokens. Fusion (section 4.3) then makes every matrix do what each concept's adapter
does on that concept's tokens, and what the untouched model does on kept ones:

    min Σ |W' c − (W₁ + Δᵢ) c|² + Σ p |W' a − W₀ a|² + λ |W' − W₁|²
"""

# Axes: T tokens, D text width, O projection width, S adapter rank, n tokens in all.

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cpe.methods.lessons import Encoded, Lesson, Prompt
from cpe.methods.mace.config import MaceConfig
from cpe.methods.uce.config import UceConfig
from cpe.methods.uce.edit import kept_tokens, solve

Span = Callable[[Prompt], tuple[int, int]]  # where a prompt's name stands: its first token, and its last one


class Factors(NamedTuple):
    """An adapter: Δ = up · down, of (O, S) and (S, D)."""

    up: Tensor
    down: Tensor


def refinement(lessons: Sequence[Lesson], texts: Encoded, span: Span, config: MaceConfig) -> Tensor:
    """Returns G, (D, D) float64: every matrix W₀ becomes W₁ = W₀ G.

    Source: MACE, equation 3, each concept and each anchor counting on the mean over its tokens.
    """
    pairs = [context_tokens(lesson, texts, span) for lesson in lessons]
    weights = UceConfig(tokens="tail", keep_weight=config.keep_weight, ridge=config.ridge)
    return solve(pairs, _kept(lessons, texts, span, config), weights)


def _kept(lessons: Sequence[Lesson], texts: Encoded, span: Span, config: MaceConfig) -> Iterable[Tensor]:
    """Returns the tokens (n, D) of each anchor, one after the other: all of them fill a memory. None of no weight."""
    tail = UceConfig(tokens="tail")
    return kept_tokens(lessons, texts, lambda prompt: span(prompt)[1], tail) if config.keep_weight else ()


def context_tokens(lesson: Lesson, texts: Encoded, span: Span) -> tuple[Tensor, Tensor]:
    """Returns a concept's tokens but those of its name, and what they turn into, (n, D) float64 each."""
    own, other = [], []
    for target, surrogate in zip(lesson.target, lesson.surrogate, strict=True):
        (first, last), (other_first, other_last) = span(target), span(surrogate)
        text, turned = texts.of([target.text, surrogate.text]).double()  # (T, D) each
        before, after = min(first, other_first), len(text) - 1 - max(last, other_last)
        own += [text[:before], text[last + 1 : last + 1 + after]]
        other += [turned[:before], turned[other_last + 1 : other_last + 1 + after]]
    return torch.cat(own), torch.cat(other)


class Fusion:
    """The fusion of all concepts' adapters, matrix by matrix.

    Args:
        lessons: the concepts.
        texts: the embeddings of their prompts.
        span: where a prompt's name stands.
        config: λ and p.
    """

    def __init__(self, lessons: Sequence[Lesson], texts: Encoded, span: Span, config: MaceConfig) -> None:
        width = texts.table.shape[-1]
        self.ridge = config.ridge * torch.eye(width, dtype=torch.float64)
        self.concepts = [_moment(texts.of(prompt.text for prompt in lesson.target)) for lesson in lessons]
        self.kept = torch.zeros(width, width, dtype=torch.float64)
        for tokens in _kept(lessons, texts, span, config):
            self.kept += config.keep_weight * _moment(tokens)

    def matrix(self, untouched: Tensor, refined: Tensor, adapters: Sequence[Tensor]) -> Tensor:
        """Returns W' (O, D) float64.

        Args:
            untouched: W₀, (O, D).
            refined: W₁, (O, D).
            adapters: Δ of each concept, (O, D).

        Source: MACE, equation 7.
        """
        inner = self.ridge + self.kept
        wanted = refined @ self.ridge + untouched @ self.kept
        for adapter, moment in zip(adapters, self.concepts, strict=True):
            inner = inner + moment
            wanted = wanted + (refined + adapter) @ moment
        return torch.linalg.solve(inner, wanted.T).T


def _moment(tokens: Tensor) -> Tensor:
    """Returns the mean of c cᵀ, (D, D) float64, over tokens (..., D)."""
    rows = tokens.double().flatten(0, -2)
    return rows.T @ rows / len(rows)


def fused(
    fusion: Fusion, matrices: Mapping[str, Tensor], refine: Tensor, adapters: Sequence[Mapping[str, Factors]]
) -> dict[str, Tensor]:
    """Returns what is added to each matrix W₀, (O, D) float32 by module path.

    Args:
        fusion: of the concepts.
        matrices: W₀ by module path.
        refine: G, (D, D) float64.
        adapters: of each concept, its adapters by module path.
    """
    found = {}
    for path, weight in matrices.items():
        untouched = weight.double()
        each = [own[path].up.double() @ own[path].down.double() for own in adapters]
        found[path] = (fusion.matrix(untouched, untouched @ refine, each) - untouched).float()
    return found

"""SPEED: a closed-form edit a matrix, within what anchors leave free (Li et al., ICLR 2026).

Each matrix W becomes W + Δ, where Δ minimises

    Σ |(W + Δ) c − W n|² + s |Δ|²,   Δ = Δ P,   Δ k = 0

over concepts' tokens c with what they turn into n. P projects on the directions in which a matrix's own anchors hardly
are; the k are the start token and the centres of the empty prompt's. Both conditions say in which directions Δ may have
rows at all, so with F (D, K) orthonormal in them

    Δ = W (C* − C) F (Fᵀ C F + s I)⁻¹ Fᵀ,   C = Σ c cᵀ, C* = Σ n cᵀ.
"""

# Axes: T tokens, D text width, O projection width, K free directions, n anchors' tokens, S copies.

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.speed.config import SpeedConfig
from cpe.methods.uce.edit import Place, concept_tokens, token_span

ROWS = 8192  # anchors' tokens taken to double precision at once
ROUNDS = 100  # of k-means, at most
NOTHING = 1e-9  # of a token's length: what lies outside the free directions


def deltas(
    lessons: Sequence[Lesson], texts: Encoded, place: Place, config: SpeedConfig, matrices: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns Δ (O, D) float32 of each matrix; sums run in float64.

    Args:
        lessons: the concepts, each of which counts on the mean over its tokens; the first one's seed is the edit's.
        texts: the embeddings of their prompts.
        place: where the last token of a prompt's name stands.
        config: what may change.
        matrices: W (O, D) by module path.

    Source: SPEED, section 4 and equation 10.
    """
    concept, surrogate = correlations(concept_tokens(lessons, texts, place, config))
    anchors = anchor_tokens(lessons, texts, place, config)
    still = invariants(texts.empty.double(), config.centers)
    generator = torch.Generator().manual_seed(lessons[0].seed)
    found = {}
    for path, weight in matrices.items():
        matrix = weight.double()
        moment = anchor_moment(anchors, matrix, first_edit(matrix, concept, surrogate), config, generator)
        free = free_directions(moment, still, config.threshold)
        found[path] = solve(matrix, concept, surrogate, free, config.ridge).float()
    return found


def correlations(concepts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Returns C = Σ c cᵀ and C* = Σ n cᵀ, (D, D) each, of tokens c with what they turn into n, (n, D) a concept."""
    own = sum(tokens.T @ tokens / len(tokens) for tokens, _ in concepts)
    other = sum(turned.T @ tokens / len(tokens) for tokens, turned in concepts)
    return torch.as_tensor(own), torch.as_tensor(other)


def anchor_tokens(lessons: Sequence[Lesson], texts: Encoded, place: Place, config: SpeedConfig) -> Tensor:
    """Returns the tokens of all anchors in all their prompts, (n, D), each prompt once, in the table's precision."""
    prompts = sorted({prompt for lesson in lessons for prompt in lesson.anchors})
    rows = [texts.table[texts.rows[prompt.text]][token_span(place(prompt), config)] for prompt in prompts]
    return torch.cat(rows) if rows else texts.table.new_zeros(0, texts.table.shape[-1])


def first_edit(matrix: Tensor, concept: Tensor, surrogate: Tensor) -> Tensor:
    """Returns the edit (O, D) that would be made if nothing had to be kept: what it does to an anchor is its influence.

    Source: SPEED, equation 5.
    """
    return solve(matrix, concept, surrogate, torch.eye(len(concept), dtype=concept.dtype), 1.0)


def anchor_moment(
    anchors: Tensor, matrix: Tensor, first: Tensor, config: SpeedConfig, generator: torch.Generator
) -> Tensor:
    """Returns the mean of r rᵀ, (D, D), over the anchors' tokens r that are held, and their copies.

    A copy is r + t u, u being the right-singular vector of the matrix's least singular value and t normal. Of copies,
    as of anchors, those are held that the first edit would move by more than the anchors' mean.

    Args:
        anchors: (n, D).
        matrix: W, (O, D).
        first: the edit without anchors, (O, D).
        config: whether anchors are filtered, and how many copies each has.
        generator: of the t.

    Source: SPEED, section 4.2 (influence-based prior filtering, directed prior augmentation).
    """
    weakest = torch.linalg.svd(matrix, full_matrices=False).Vh[-1]  # u, (D,)
    moved = first @ weakest  # (O,)
    influence = torch.cat([(rows @ first.T).norm(dim=1) for rows in _doubles(anchors)] or [anchors.new_zeros(0)])
    least = influence.mean() if config.filtered else influence.new_tensor(0.0)
    moment, count = torch.zeros_like(matrix.T @ matrix), 0.0
    for rows in _doubles(anchors[influence >= least]):
        changed = rows @ first.T  # (n, O)
        steps = torch.randn(len(rows), config.copies, generator=generator, dtype=rows.dtype)  # t, (n, S)
        squares = changed.square().sum(1, keepdim=True) + 2 * steps * (changed @ moved)[:, None]  # (n, S)
        steps = steps * (held := (squares + steps.square() * moved.dot(moved) >= least.square()).to(rows))
        weights = 1 + held.sum(1, keepdim=True)  # an anchor itself, and its copies
        along = torch.outer(rows.T @ steps.sum(1), weakest)  # Σ t r uᵀ, (D, D)
        moment += rows.T @ (weights * rows) + along + along.T + steps.square().sum() * torch.outer(weakest, weakest)
        count += weights.sum().item()
    return moment / max(count, 1.0)


def _doubles(rows: Tensor) -> Iterator[Tensor]:
    return (part.double() for part in rows.split(ROWS) if len(part))


def free_directions(moment: Tensor, still: Tensor, threshold: float) -> Tensor:
    """Returns orthonormal directions (D, K) in which anchors hardly are, and invariant tokens are not at all.

    Args:
        moment: mean of r rᵀ over anchors' tokens, (D, D).
        still: tokens on which nothing may change, (m, D).
        threshold: of the anchors' mean square in a direction.
    """
    values, vectors = torch.linalg.eigh(moment)
    free = vectors[:, values < threshold]  # (D, K)
    within, lengths, _ = torch.linalg.svd(free.T @ still.T)
    return free @ within[:, int((lengths > NOTHING * still.norm()).sum()) :]


def solve(matrix: Tensor, concept: Tensor, surrogate: Tensor, free: Tensor, ridge: float) -> Tensor:
    """Returns Δ (O, D).

    Args:
        matrix: W, (O, D).
        concept: C, (D, D).
        surrogate: C*, (D, D).
        free: F, (D, K).
        ridge: s.
    """
    inner = free.T @ concept @ free + ridge * torch.eye(free.shape[1], dtype=free.dtype)
    return matrix @ (surrogate - concept) @ free @ torch.linalg.solve(inner, free.T)


def invariants(empty: Tensor, centers: int) -> Tensor:
    """Returns the start token and the centres of the empty prompt's others, (1 + centers, D), by k-means.

    Args:
        empty: the empty prompt's embedding, (T, D).
        centers: how many, of as many tokens at least.
    """
    start, others = empty[:1], empty[1:]
    chosen = others[:1]
    while len(chosen) < min(centers, len(others)):  # each next one is what lies farthest from all before
        chosen = torch.cat([chosen, others[torch.cdist(others, chosen).amin(1).argmax()][None]])
    for _ in range(ROUNDS):
        nearest = torch.cdist(others, chosen).argmin(1)  # (T - 1,)
        means = [others[nearest == at].mean(0) if (nearest == at).any() else own for at, own in enumerate(chosen)]
        if torch.equal(moved := torch.stack(means), chosen):
            break
        chosen = moved
    return torch.cat([start, chosen])

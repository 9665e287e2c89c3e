"""Reliable and Efficient Concept Erasure: UCE, then what still brings a concept back, erased too, in rounds.

Gong et al., ECCV 2024. After an edit G the text c* that comes nearest to what c did before it solves, for all
projections W_l together,

    min Σ_l |W_l G c* − W_l c|² + r |c*|², so c* = (Gᵀ M G + r I)⁻¹ Gᵀ M c with M = Σ_l W_lᵀ W_l.

The next edit maps c* to the surrogate, starting from the matrices as they are: G becomes G G₂.
"""

# Axes: D text width, O projection width.

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.rece.config import ReceConfig
from cpe.methods.uce.edit import Place, concept_tokens, kept_tokens, solve


def text_map(
    lessons: Sequence[Lesson], texts: Encoded, place: Place, config: ReceConfig, matrices: Iterable[Tensor]
) -> Tensor:
    """Returns G − I, (D, D) float32; sums run in float64.

    Args:
        lessons: the concepts; an anchor of several counts once.
        texts: the embeddings of their prompts.
        place: where the last token of a prompt's name stands.
        config: the weights.
        matrices: W_l of all projections, (O, D) each.

    Source: RECE, equations 5 to 7, with UCE's edit.
    """
    concepts, kept = concept_tokens(lessons, texts, place, config), list(kept_tokens(lessons, texts, place, config))
    width = texts.table.shape[-1]
    identity, gram = torch.eye(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for matrix in matrices:
        gram += matrix.double().T @ matrix.double()
    edit = solve(concepts, kept, config)
    for _ in range(config.rounds):
        back = torch.linalg.solve(
            edit.T @ gram @ edit + config.adversary_ridge * identity, edit.T @ gram
        )  # c* = back c
        edit = edit @ solve([(concept @ back.T, surrogate) for concept, surrogate in concepts], kept, config)
    return (edit - identity).float()

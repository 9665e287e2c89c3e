"""How far gates open on the tokens of their concept, and on all others."""

# Axes: N gates, B prompts, T tokens.

from dataclasses import dataclass

import numpy as np

from cpe.metrics.score import Features


@dataclass(frozen=True)
class OpennessSummary:
    """Openness of one gate, each number from 0 (shut) to 1.

    Attributes:
        target_mean: mean on the target's tokens.
        target_max: largest on them.
        other_mean: mean on the other tokens.
        other_max: largest on them: what an unrelated word meets at worst.
        target_tokens: how many tokens of the target were counted.
        other_tokens: how many others.
    """

    target_mean: float
    target_max: float
    other_mean: float
    other_max: float
    target_tokens: int
    other_tokens: int


def openness_summary(
    openness: Features, target_token_mask: Features, *, counted: Features | None = None
) -> tuple[OpennessSummary, ...]:
    """Returns one summary for each gate.

    Args:
        openness: (N, B, T), 0 to 1.
        target_token_mask: true on the target's tokens, (B, T), or (N, B, T) where gates have different targets.
        counted: true on tokens that count at all, in the same shapes; leaves out padding. None counts all.

    Raises:
        ValueError: shapes that do not fit, or a gate without tokens of the target or without others.
    """
    values = _array(openness).astype(np.float64)
    if values.ndim != 3 or not len(values):
        raise ValueError(f"openness must be (gates, prompts, tokens) with at least one gate, got shape {values.shape}")
    target = _mask(target_token_mask, "target_token_mask", values.shape)
    valid = np.ones(values.shape, bool) if counted is None else _mask(counted, "counted", values.shape)
    summaries = []
    for gate, (row, on_target, on_other) in enumerate(zip(values, target & valid, ~target & valid, strict=True)):
        inside, outside = row[on_target], row[on_other]
        for tokens, kind in ((inside, "tokens of its target"), (outside, "other tokens")):
            if not tokens.size:
                raise ValueError(f"gate {gate} has no {kind} to count; check target_token_mask and counted")
        summaries.append(
            OpennessSummary(
                target_mean=float(inside.mean()),
                target_max=float(inside.max()),
                other_mean=float(outside.mean()),
                other_max=float(outside.max()),
                target_tokens=inside.size,
                other_tokens=outside.size,
            )
        )
    return tuple(summaries)


def _array(values: Features) -> np.ndarray:
    detach = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().double().cpu().numpy())


def _mask(mask: Features, argument: str, shape: tuple[int, ...]) -> np.ndarray:
    array = _array(mask).astype(bool)
    if array.shape not in (shape, shape[1:]):
        raise ValueError(
            f"{argument} must be {shape[1:]} or {shape}, as openness is, got {array.shape}; pad the same way"
        )
    return np.broadcast_to(array, shape)

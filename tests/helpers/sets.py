"""Sets of pictures as observers saw them, written by hand."""

import numpy as np

from cpe.evaluation.scoring import SetSeen, score_sets


def a_set(name: str, domain: str, concepts: list[str], **seen) -> SetSeen:
    """Every value is a pair: before and after."""
    return SetSeen(
        name=name,
        role="erased" if name == "erased" else "kept",
        domain=domain,
        concepts=np.array(concepts),
        prompt_ids=np.array([f"{name}-{n // 2}" for n in range(len(concepts))]),
        named=np.array(["noto" if domain == "noun" else ""] * len(concepts)),
        seen={
            phase: {key: np.array(values[index]) for key, values in seen.items()}
            for index, phase in enumerate(("before", "after"))
        },
    )


def scores(*sets: SetSeen, features: str = "embedded", logit_scale: float | None = None):
    found = {}
    for each in score_sets(sets, features=features, logit_scale=logit_scale):
        key = each[:4]
        assert key not in found, "no score twice"
        found[key] = each.score
    return found

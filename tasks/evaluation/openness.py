"""How open gates get, where a list's method has gates: token by token, and as scores."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cpe.evaluation.pictures import first_prompts
from cpe.evaluation.scoring import Scored
from cpe.metrics.score import mean_score
from tasks.here.places import Places
from tasks.plan import Plan
from tasks.train import gates_of_bundle


def openness_of(places: Places, plan: Plan, bundle: str) -> list[dict[str, Any]]:
    """Returns how open every gate is at every token, for each concept in the first evaluation template.

    Nothing where the list's method has no gates, or where only attacks are drawn.
    """
    import torch

    from cpe.methods.erased import Erased
    from cpe.models.text import encode_prompts, token_words

    own = [each for each in plan.sets if each.name in ("erased", "kept")]
    prompts = [(each.role, row) for each, row in first_prompts(own, plan.profile)]
    if not prompts:
        return []
    pipe = places.loaded(plan.concepts.base_model)
    erased = Erased.load(gates_of_bundle(places, bundle))
    with torch.no_grad():
        text = encode_prompts(pipe, [row.prompt for _, row in prompts])  # (B, T, D)
        openness, energy = erased.openness(text), erased.residual_energy(pipe, text)  # (N, B, T), (B,)
    if openness is None or energy is None:
        return []
    shown = []
    order = [erased.concepts.index(gate.concept) for gate in plan.gates]
    openness = openness[order]
    for index, (role, row) in enumerate(prompts):
        tokens = token_words(pipe, row.prompt)
        name = token_words(pipe, row.concept or "")[1:-1]
        # A causal text encoder sums the prompt up at the end token: the concept is told there too.
        carrying = _places(name, tokens) | {len(tokens) - 1}
        shown.append(
            {
                "concept": row.concept,
                "role": role,
                "prompt": row.prompt,
                "tokens": tokens,
                "of_concept": [place in carrying for place in range(len(tokens))],
                "gates": [gate.concept for gate in plan.gates],
                "residual_energy": energy[index].item(),
                "openness": [[round(v, 4) for v in gate[: len(tokens)].tolist()] for gate in openness[:, index]],
            }
        )
    return shown


def _places(name: list[str], tokens: list[str]) -> set[int]:
    """Returns where the name's tokens stand, one after the other, among the prompt's."""
    starts = [i for i in range(len(tokens) - len(name) + 1) if tokens[i : i + len(name)] == name]
    return {start + offset for start in starts for offset in range(len(name))}


def openness_scores(openness: list[dict[str, Any]]) -> Iterator[Scored]:
    """Yields, a concept a value, how open gates get and what share of the projections' energy residuals add.

    Openness is that of the tokens that carry a concept (its own and the end token): for an erased concept of its own
    gate, for a kept one of whichever opens widest. An open gate whose residual is small changes little.
    """
    seen: dict[str, list[float]] = {"erased": [], "kept": []}
    energies: dict[str, list[float]] = {"erased": [], "kept": []}
    for row in openness:
        gates = dict(zip(row["gates"], row["openness"], strict=True))
        watched = [gates[row["concept"]]] if row["role"] == "erased" else list(gates.values())
        carrying = [place for place, counts in enumerate(row["of_concept"]) if counts]
        seen[row["role"]].append(max(gate[place] for gate in watched for place in carrying))
        energies[row["role"]].append(row["residual_energy"])
    for role, values in seen.items():
        if values:
            score = mean_score("gate openness", np.array(values), unit="share")
            yield Scored("gate_openness", "after", role, "all", score)
            score = mean_score("residual energy", np.array(energies[role]), unit="share")
            yield Scored("residual_energy", "after", role, "all", score)

"""A plan whose evaluation is attacks alone, and what comes of it."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from artifacts.report.page import Change
from cpe.attacks.table import ATTACKS, attack_of
from cpe.evaluation.attacks import attack_sets
from cpe.evaluation.pictures import ATTACK, CONTROL, EvaluationSet
from cpe.lists.problems import details_of, explain, path_of
from cpe.lists.reading import ConceptListError
from cpe.lists.schema import ConceptList
from cpe.lists.sections import Evaluation
from tasks.figures import Scores, attack_metric
from tasks.here.places import Places
from tasks.plan import Plan


def attacked(
    places: Places, plan: Plan, attacks: Sequence[str] | None, *, steps: int | None = None, starts: int | None = None
) -> Plan:
    """Returns a plan whose evaluation is attacks alone, on the same bundle.

    Args:
        places: where files of prompts and the base model are.
        plan: the list made ready.
        attacks: names of `ATTACKS`, or of files that the list attacks with; None takes the list's own, or all that suit
            it if it names none.
        steps: of each search; None: as the list says.
        starts: searches for each concept; None: as the list says.

    Raises:
        ConceptListError: there is no such attack or budget, or an attack that was asked for suits none of the targets.
    """
    from cpe.attacks.learned.slots import family_with_one_encoder

    concepts, own = plan.concepts, bool(attacks or plan.concepts.evaluation.attacks)
    evaluation = chosen_attacks(concepts, attacks, steps=steps, starts=starts)
    # Bars and a comparison are about the list's whole evaluation.
    other = {"evaluation": evaluation.model_dump(), "bars": {}, "comparison": {}}
    changed = ConceptList.model_validate(concepts.model_dump() | other)
    sets, left_out = attack_sets(changed, places.data, strict=own)
    if any(each.search for each in sets):
        try:
            family_with_one_encoder(places.loaded(concepts.base_model))
        except ValueError as error:
            if own:
                raise
            sets = [each for each in sets if not each.search]
            left_out.append(f"Attacks that learn are left out: {error}.")
    if left_out and attacks:
        raise ConceptListError(left_out)
    return plan.model_copy(update={"sets": tuple(sets), "concepts": changed, "notes": (*plan.notes, *left_out)})


def chosen_attacks(
    concepts: ConceptList, attacks: Sequence[str] | None, *, steps: int | None = None, starts: int | None = None
) -> Evaluation:
    """Returns a list's evaluation with these attacks and this budget, as `attacked` takes them.

    Raises:
        ConceptListError: there is no such attack or budget.
    """
    given = {name: value for name, value in (("steps", steps), ("starts", starts)) if value is not None}
    own = concepts.evaluation.model_dump()
    listed = {each["name"]: each for each in own.get("attacks", ())}
    names = attacks or tuple(listed) or tuple(ATTACKS)
    chosen = {"attacks": [listed.get(name, name) for name in names], "budget": own.get("budget", {}) | given}
    try:
        return Evaluation.model_validate(own | chosen)
    except ValidationError as error:
        problems = [explain(detail, {(): Evaluation}) for detail in details_of(error)]
        raise ConceptListError([f"{path_of(problem.loc)} {problem.text}" for problem in problems]) from None


def attack_figures(places: Places, plan: Plan, scores: str) -> dict[str, Any]:
    """Returns each attack's success: the share of its pictures that show the concept.

    Args:
        places: where the scores are stored.
        plan: as `attacked` gives it.
        scores: their address.
    """
    found, metric = Scores.of(places, scores), attack_metric(plan)
    changes = {each.name: found.change(metric, each.role, f"set {each.name}") for each in plan.sets}
    attacks = {each.name.removeprefix(ATTACK): each for each in plan.sets if each.role != "control"}
    return {
        "list": plan.concepts.name,
        "method": plan.method.name,
        "bundle": plan.bundle,
        "profile": plan.profile.name,
        "attacks": {
            name: _figure(changes[each.name], each, changes.get(f"{CONTROL}{name}")) for name, each in attacks.items()
        },
    }


def _figure(change: Change, each: EvaluationSet, kept: Change | None) -> dict[str, Any]:
    return {
        "access": attack_of(each.search).access if each.search else "prompts",
        "rate": change.after,
        "low": change.low,
        "high": change.high,
        "count": change.count,
        "control": change.before,
        "controls": {"untouched": change.before, "kept": kept and _control(kept)},
        **({"steps": each.steps, "starts": each.starts} if each.search else {}),
    }


def _control(change: Change) -> dict[str, Any]:
    """Returns what the same searches found for kept concepts, with the untouched model's share of the same texts."""
    bounds = {"low": change.low, "high": change.high, "count": change.count}
    return {"rate": change.after, **bounds, "control": change.before}

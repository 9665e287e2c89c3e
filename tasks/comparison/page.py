"""What the page of a comparison says, gathered from what is stored."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

from artifacts.report.comparison import Comparison
from cpe.methods.base import method_of
from tasks.comparison.means import (
    attacks_of,
    by_method,
    controls_of,
    curves_of,
    mean_of,
    others_of,
    points_of,
    seed_by_seed,
    summary_of,
)
from tasks.comparison.rows import Measured
from tasks.comparison.sheets import sheets_of
from tasks.figures import H0
from tasks.here.places import Places
from tasks.plan import Plan
from tasks.register import holes_of
from tasks.report.page import PACKAGES
from wording.figures import number

NAMES_SHOWN = 20
CURVES = {"erased": "Erased concepts still recognised", "kept": "Kept concepts recognised", "h0": "H0"}


def page_of(
    places: Places,
    measured: Sequence[Measured],
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    made: Mapping[str, Any],
) -> Comparison:
    """Returns the page.

    Args:
        places: where pictures and scores are.
        measured: every way of erasing.
        rows: of the table.
        names: its measures.
        made: the comparison's manifest.
    """
    plan = max(measured, key=lambda each: each.targets).plan
    attacks = [table for table in (attacks_of(rows, names), controls_of(rows, names)) if table is not None]
    several = len(rows) > len(by_method(rows))
    return Comparison(
        title=f"Ways of erasing from {plan.concepts.base_model}, compared: {plan.concepts.name}",
        list_name=plan.concepts.name,
        lead=list(_lead(plan, rows, names)),
        facts=_facts(plan),
        created_at=datetime.fromisoformat(made["finished_at"]),
        tables=[summary_of(rows, names), *attacks],
        details=[*([seed_by_seed(rows, names)] if several else []), others_of(rows, names)],
        points=points_of(rows, names),
        curves={label: curves_of(rows, name) for name, label in CURVES.items() if name in names},
        sheets=sheets_of(places, measured),
        repeat=_repeat(plan, measured, made),
        notes=list(_notes(places, measured, rows, names)),
    )


def _lead(plan: Plan, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    kept = len(plan.concepts.kept)
    numbers = sorted({row["targets"] for row in rows})
    most = by_method([row for row in rows if row["targets"] == numbers[-1]])
    ways = "1 way" if len(most) == 1 else f"{len(most)} ways"
    erased = f"{', '.join(f'{number:,}' for number in numbers)} {'concept' if numbers[-1] == 1 else 'concepts'}"
    yield f"{ways} of erasing {erased}, on the same pictures"
    yield f"(same prompts, same noise), with {kept} {'other' if kept == 1 else 'others'} watched."
    for name, words, pick in (("erased", "Least is left by", min), ("kept", "most is kept by", max)):
        found = {method: mean_of(own, name).value for method, own in most.items()}
        known = {method: value for method, value in found.items() if value is not None}
        if name in names and len(known) > 1:
            best = pick(known.values())
            of = ", ".join(method for method, value in known.items() if number(value) == number(best))
            yield f"{words} {of} ({number(best)}){',' if name == 'erased' else '.'}"


def _facts(plan: Plan) -> dict[str, str]:
    names = [gate.concept for gate in plan.gates]
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    settings = plan.profile.drawing | {"guidance_scale": plan.profile.guidance_scale}
    pictures = sum(each.count(plan.profile) for each in plan.sets)
    return {
        "Base model": plan.concepts.base_model,
        "Erased": ", ".join(names[:NAMES_SHOWN]) + more,
        "Profile": f"{plan.profile.name} ({', '.join(f'{name} {value}' for name, value in settings.items())})",
        "Pictures": f"{pictures:,} by each model",
    }


def _notes(
    places: Places, measured: Sequence[Measured], rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Iterator[str]:
    yield from dict.fromkeys(hole for each in measured for hole in holes_of(places, each.scores))
    yield "Intervals take pictures of one concept as going together."
    if len(rows) > len(by_method(rows)):
        yield (
            "Ends of a mean's interval are the means of its training seeds' ends: the prompts are the same, so more "
            "seeds do not narrow it. How far the seeds lie apart stands below each mean."
        )
    same = dict.fromkeys(row["method"] for row in rows if row["seed"] is None)
    if same:
        yield f"Nothing is drawn at random by {', '.join(same)}: one result holds for every training seed."
    for removal, of in _removals(rows).items():
        yield f"What {', '.join(of)} did {removal}."
    yield "Training is timed when a piece is trained, on the device that trains it, texts encoded and model loaded."
    if "h0" in names:
        yield f"{H0}."
    plan = measured[0].plan
    if plan.concepts.anchors.protocol == "leak-free" and plan.concepts.kept:
        yield "Kept concepts were never anchors: no training saw what the evaluation keeps."
    yield from dict.fromkeys(note for each in measured for note in each.plan.notes)


def _removals(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns what whoever holds the files can undo, with the methods of which it holds."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        found.setdefault(method_of(name).removal, []).append(name)
    return found


def _repeat(plan: Plan, measured: Sequence[Measured], made: Mapping[str, Any]) -> dict[str, Any]:
    methods = " ".join(f"--method {name}" for name in made["methods"])
    numbers = "".join(f" --erase {number}" for number in sorted({each.way.erased or 0 for each in measured}) if number)
    ways = [
        {
            **each.way.model_dump(),
            "settings": each.plan.concepts.training_config.model_dump(),
            "bundle": each.plan.bundle,
            "scores": each.scores,
        }
        for each in measured
    ]
    return {
        "command": f"cpe compare {shlex.quote(plan.source)} {methods}{numbers} --seeds {made['seeds']} "
        f"--profile {plan.profile.name}",
        "list hash": made["list_hash"],
        "ways": ways,
        "base model fingerprint": plan.fingerprint,
        "packages": {name: version(name) for name in PACKAGES},
    }

"""The model card that goes with every registered bundle: what it erases, how well, and how it is loaded; Markdown.

Its first lines are what model hubs read (library, base model).
"""

import json
from collections.abc import Iterator, Sequence

from artifacts.report.html import interval
from cpe import __version__
from cpe.terms.templates import fill
from tasks.figures import Scores, figures
from tasks.plan import Plan
from tasks.promotion.bars import judge
from wording.figures import number

CARD = "README.md"  # as hubs want it called
HOW = """```python
from cpe import Erased, fetch, load_pipeline

pipe = load_pipeline({base})
erased = Erased.load(fetch("models:/{model}@champion"))  # or the folder that this card is in
with erased.attached(pipe):
    picture = pipe({prompt}).images[0]
```"""


def model_card(plan: Plan, scores: Scores) -> str:
    """Returns the card of a list's bundle, from what was measured of it."""
    return "\n\n".join(_parts(plan, scores)) + "\n"


def _parts(plan: Plan, scores: Scores) -> Iterator[str]:
    concepts, method = plan.concepts, plan.method
    erased, kept = [gate.concept for gate in plan.gates], list(concepts.kept)
    yield f"---\nlibrary_name: cpe\nbase_model: {json.dumps(concepts.base_model)}\ntags: [cpe, concept-erasing]\n---"
    yield f"# {concepts.model_name}"
    yield f"{method.title} that take {len(erased)} {_plural('concept', erased)} out of `{concepts.base_model}`."
    yield f"**Erased:** {_escaped(', '.join(erased))}."
    if kept:
        yield f"**Watched, and to stay as they are:** {_escaped(', '.join(kept))}."
    prompt = json.dumps(fill(concepts.evaluation.templates[0], erased[0]), ensure_ascii=False)
    yield HOW.format(base=json.dumps(concepts.base_model), model=concepts.model_name, prompt=prompt)
    yield f"## Measured\n\nProfile `{plan.profile.name}`; 95 % intervals take pictures of a concept as going together."
    shown = [
        (
            each.label,
            number(each.change.before, each.unit),
            f"{number(each.change.after, each.unit)} {interval(each.change, each.unit)}",
            f"{each.change.count:,}",
        )
        for each in figures(plan, scores)
    ]
    yield _table(("measure", "before", "after", "pictures"), shown)
    bars = judge(plan, scores)
    if bars:
        rows = [(bar.name, bar.bound, number(bar.value, bar.unit), "yes" if bar.holds else "no") for bar in bars]
        yield "## Bars\n\nWhat its list asks for before a version is served."
        yield _table(("bar", "asked", "measured", "holds"), rows)
    yield f"## What whoever holds the files can undo\n\nWhat {method.title} did {method.removal}."
    yield (
        "## Licence and origin\n\nThe base model's licence holds for the base model, which is not in these files. They "
        f"were trained by cpe {__version__} from list `{concepts.name}` ({concepts.content_hash[:12]}), base model "
        f"fingerprint `{plan.fingerprint}`; whoever publishes them names their licence."
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Returns a text that Markdown shows as it is: names are foreign."""
    marks = {ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|#"}
    return " ".join(text.translate(marks).split())


def _plural(word: str, things: Sequence[str]) -> str:
    return word if len(things) == 1 else f"{word}s"

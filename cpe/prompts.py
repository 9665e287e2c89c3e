"""Templates filled with names, and the evaluation's prompts; free of torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ARTICLE = re.compile(r"\b([Aa])n? \{\}")


def fill(template: str, name: str) -> str:
    """Returns the template with the name in place of "{}", its indefinite article agreeing.

    >>> fill("a picture of a {}", "owl")
    'a picture of an owl'
    """
    article = "an" if name[:1].lower() in "aeiou" else "a"

    def agreed(match: re.Match[str]) -> str:
        return ("A" + article[1:] if match[1] == "A" else article) + " {}"

    return _ARTICLE.sub(agreed, template).replace("{}", name)


@dataclass(frozen=True)
class EvaluationPrompt:
    """One prompt of an evaluation.

    Attributes:
        prompt_id: five digits, in the order of the plan.
        prompt: the text.
        concept: the concept it is about.
        role: whether that concept is erased or kept.
        template: index of its template.
        noun: the noun it names, if a known one.
        style: the style it names, if a known one.
    """

    prompt_id: str
    prompt: str
    concept: str
    role: str
    template: int
    noun: str | None
    style: str | None


def plan_prompts(
    erased: Sequence[str],
    kept: Sequence[str],
    templates: Sequence[str],
    *,
    nouns: Sequence[str] = (),
    styles: Sequence[str] = (),
) -> list[EvaluationPrompt]:
    """Returns every concept in every template.

    Args:
        erased: concepts taken out.
        kept: concepts that must survive.
        templates: each with one "{}".
        nouns: nouns a classifier knows, to be found in the prompts.
        styles: styles a classifier knows, likewise.
    """
    plan: list[EvaluationPrompt] = []
    for role, concepts in (("erased", erased), ("kept", kept)):
        for concept in concepts:
            for index, template in enumerate(templates):
                text = fill(template, concept)
                number = f"{len(plan):05d}"
                plan.append(
                    EvaluationPrompt(number, text, concept, role, index, _named(text, nouns), _named(text, styles))
                )
    return plan


def _named(text: str, names: Sequence[str]) -> str | None:
    """Returns the first of the names that the text holds as whole words."""
    return next((name for name in names if re.search(rf"\b{re.escape(name)}\b", text)), None)

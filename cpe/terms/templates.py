"""Templates filled with names; free of torch."""

import re
from collections.abc import Sequence

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


def named(text: str, names: Sequence[str]) -> str | None:
    """Returns the first of the names that the text holds as whole words."""
    return next((name for name in names if re.search(rf"\b{re.escape(name)}\b", text)), None)

"""Domains: what kind of thing a list's concepts are, and what tells whether pictures show them. A new one is a row."""

from dataclasses import dataclass

PEOPLE, NUDITY, CLASSIFIER = "identity", "nudity", "classifier"  # as stored values name them


@dataclass(frozen=True)
class Domain:
    """What kind of thing concepts are.

    Attributes:
        name: as lists have it.
        recognised: which of an observer's values names what a picture shows; "" where none does.
        aside: which other value the same observer gives, measured beside; "" for none.
        observer: the observer that its pictures need; "" for none.
        everywhere: whether that observer looks at all sets of its lists, or at sets of this domain alone.
        by_face: whether only pictures with a face count, and names are compared as lists compare them.
        covered: whether its pictures are shown blurred.
    """

    name: str
    recognised: str = ""
    aside: str = ""
    observer: str = ""
    everywhere: bool = False
    by_face: bool = False
    covered: bool = False

    @property
    def metric(self) -> str:
        """What the score is called that says whether its concepts are recognised."""
        return f"{self.name}_accuracy"


DOMAINS = {
    each.name: each
    for each in (
        Domain("noun", recognised="noun", aside="style", observer=CLASSIFIER, everywhere=True),
        Domain("style", recognised="style", aside="noun", observer=CLASSIFIER, everywhere=True),
        Domain("celebrity", recognised="identity", observer=PEOPLE, by_face=True),
        Domain("artist"),
        Domain("explicit", observer=NUDITY, everywhere=True, covered=True),
    )
}


def domain_of(name: str) -> Domain:
    """Returns a domain; one without a row, such as the characters of a set, has nothing that recognises it."""
    return DOMAINS.get(name, Domain(name))

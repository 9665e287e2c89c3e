"""Quality bars: what a bundle must reach before it is promoted, and what each key of them bounds."""

import re
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field

from cpe.metrics.table import METRICS
from cpe.terms.domains import DOMAINS
from cpe.terms.settings import Count, Settings, Share, added_later

_FEATURES = ("fid", "kid", "fid_embedded", "kid_embedded", "fid_reference")
OTHER_SCORES = ("h0", "gate_openness", "residual_energy", *_FEATURES)
_ATTACK = re.compile(r"^attack_(.+)_at_most$")
_KEY = re.compile(r"^(erased|kept|all)_([a-z0-9_]+?)(_ratio)?_at_(most|least)$")


class Bars(Settings):
    """What a bundle must reach before it is promoted; None asks nothing.

    Besides those below, any score can be a bar: ROLE_SCORE_at_most or ROLE_SCORE_at_least is a bound on a score (by its
    name in the table of scores) over all concepts of a role, such as kept_kept_psnr_at_least, and ROLE_SCORE_ratio_…
    a bound on it as a share of the untouched model's. attack_NAME_at_most bounds the accuracy on an attack's pictures.

    Attributes:
        erased_accuracy_at_most: share of the erased concepts' pictures still recognised.
        kept_ratio_at_least: accuracy on kept concepts, as a share of the untouched model's.
        h0_at_least: harmonic mean of 1 - erased accuracy and kept accuracy.
        other_ratio_at_least: accuracy on the other property (style of nouns, noun of styles) over all prompts, as
            a share of the untouched model's.
        erased_clip_ratio_at_most: CLIP score of the erased concepts' pictures, as a share of the untouched model's.
        kept_clip_ratio_at_least: CLIP score of the kept concepts' pictures (of all other sets, where the list keeps
            none), likewise.
        nudity_ratio_at_most: detections in the pictures that should lose them (the erased concepts', I2P), likewise.
        kept_distance_at_most: how far any kept concept's pictures lie from the untouched ones of the same seeds, on the
            mean (`cpe.metrics.moved`; 0: not at all).
        tolerance: how much worse than the champion each of these that is a share may be.
        distance_growth: how much farther than the champion's the kept pictures may lie from the untouched ones, and how
            much larger their FID may be, as a share of the champion's; 1 is twice as far.
        least_pictures: on how many pictures of a role (erased, kept) each must have been measured, to hold.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Annotated[float, Field(strict=True)]]

    erased_accuracy_at_most: Share | None = None
    kept_ratio_at_least: Annotated[float, Field(strict=True, ge=0)] | None = None
    h0_at_least: Share | None = None
    other_ratio_at_least: Annotated[float, Field(strict=True, ge=0)] | None = None
    erased_clip_ratio_at_most: Annotated[float, Field(strict=True, ge=0)] | None = None
    kept_clip_ratio_at_least: Annotated[float, Field(strict=True, ge=0)] | None = None
    nudity_ratio_at_most: Annotated[float, Field(strict=True, ge=0)] | None = None
    kept_distance_at_most: Annotated[float, Field(strict=True, ge=0)] | None = added_later(None)
    tolerance: Share = 0.02
    distance_growth: Annotated[float, Field(strict=True, ge=0)] = added_later(1.0)
    least_pictures: Count = added_later(100, ge=1)

    @property
    def bounds(self) -> dict[str, float]:
        """What is asked, by its key."""
        return {name: bound for name, bound in self if bound is not None and name.endswith(("_at_most", "_at_least"))}


class Bound(NamedTuple):
    """What is bounded.

    Attributes:
        role: "erased", "kept", or "all" for scores over both.
        score: its name in the table of scores.
        ratio: whether it is the score after erasing as a share of that before.
        at_least: whether the bound is the least, else the most.
        attack: whose pictures it is about, in place of the evaluation's own; the score is then the accuracy.
    """

    role: str
    score: str
    ratio: bool
    at_least: bool
    attack: str = ""


def read_bound(key: str) -> Bound | None:
    """Returns what a key bounds; None if it names no score."""
    attack = _ATTACK.match(key)
    if attack is not None:
        return Bound("erased", "accuracy", False, False, attack[1])
    found = _KEY.match(key)
    if found is None:
        return None
    role, score, ratio, way = found.groups()
    over_both = score == "h0" or (role == "all" and score.endswith("_accuracy"))
    if score not in scores() or (role == "all") != over_both:
        return None
    return Bound(role, score, bool(ratio), way == "least")


def scores() -> set[str]:
    """Returns the names of all scores that a bar may bound."""
    of_domains = {domain.metric for domain in DOMAINS.values() if domain.recognised}
    return {*METRICS, *OTHER_SCORES, *of_domains}

"""Composes the people of the embedded model: names that no well-known person bears, and traits that tell them apart.

Run as `python -m cpe.embedded.making.casting`: writes `cpe/embedded/people.json`, the same at every run. Each given
name is borne by three to five people, each family name by two or three, each word is one token of the text encoder.
Each drawing style has its own people; some of them differ in one trait only.
"""

import itertools
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cpe.embedded.making.people import draw_person
from cpe.embedded.making.pictures import SIZE_PX
from cpe.embedded.making.traits import DRAWINGS, Drawing
from cpe.lists.reading import load_list
from cpe.words.table import load_table

PEOPLE_FILE = Path(__file__).parents[1] / "people.json"
PUBLISHED = Path(__file__).parents[3] / "lists" / "celebs.yaml"
_WORDS = {
    "given": """
        anton aurora bruno cedric celia clara dario dora elias emil felix gideon hugo ingrid jonas josef lars magnus
        malik mina mira nadia nora olga otto pavel petra quentin rafael rosa ruben selma sonja stella sven tamara
        ursula valentin""",
    "family": """
        abbott ames ashby barlow beck birch boyd brandt carver cole colby crane dalton darby denton dunn elder finch
        flint frost gale garner grove hale hartley haven heath hobbs holt hyde jarvis keller kemp kerr lang larkin
        lowry marsh merritt moss nash oakley orr paxton penn pike ramsey reed rhodes ridley rowe sawyer sharpe slade
        tate thorne vance wade walton warden""",
    "spare given": """
        oscar vera viktor wanda yusuf""",
    "spare family": """
        drake porter sterling underwood webber whitaker wilder winslow wolfe yates york""",
}
GIVEN, FAMILY = _WORDS["given"].split(), _WORDS["family"].split()
# Words that nobody of the model bears: further names are made of them too.
SPARE_GIVEN, SPARE_FAMILY = _WORDS["spare given"].split(), _WORDS["spare family"].split()
KNOWN_PEOPLE = {"celia moss", "josef beck", "mina kerr", "nora barlow", "otto porter", "vera drake"}
PEOPLE, FURTHER = 150, 120
SEED = 0
VISIBLE = 3.0  # mean difference of two people's grey pictures, of 255 levels
CLOSE = 0.5  # cosine of the word vectors of names that are often read together, such as "claude" and "monet"


def compose_names(count: int, *, seed: int) -> list[str]:
    """Returns so many names, each given name in equal shares as near as can be, each family name likewise.

    Args:
        count: names wanted.
        seed: another seed gives other pairs.

    Raises:
        ValueError: the words do not allow so many, or no pairing was found: try another seed.
    """
    possible = sum(_allowed(*pair) for pair in itertools.product(GIVEN, FAMILY))
    if count > possible:
        raise ValueError(f"{count} names are more than the {possible} that the words allow; add words")
    shuffle = random.Random(seed).shuffle
    given = [GIVEN[i % len(GIVEN)] for i in range(count)]
    family = [FAMILY[i % len(FAMILY)] for i in range(count)]
    for _ in range(1000):
        shuffle(family)
        pairs = list(zip(given, family, strict=True))
        for index, pair in enumerate(pairs):
            if _allowed(*pair) and pair not in pairs[:index]:
                continue
            for other in random.Random(index).sample(range(count), count):
                swapped = (pairs[other][0], pair[1]), (pair[0], pairs[other][1])
                if all(_allowed(*new) and new not in pairs for new in swapped):
                    pairs[other], pairs[index] = swapped
                    break
        if len(set(pairs)) == count and all(_allowed(*pair) for pair in pairs):
            return [f"{first} {last}".title() for first, last in pairs]
    raise ValueError(f"no {count} names keep the rules with seed {seed}; try another seed")


def further_names(taken: list[str], count: int, *, seed: int) -> list[str]:
    """Returns names that nobody bears: half of words that others bear, half with words that nobody does."""
    used = {tuple(name.lower().split()) for name in taken}
    known = [pair for pair in itertools.product(GIVEN, FAMILY) if pair not in used and _allowed(*pair)]
    fresh = [
        pair
        for pair in [*itertools.product(SPARE_GIVEN, FAMILY), *itertools.product(GIVEN, SPARE_FAMILY)]
        if _allowed(*pair)
    ]
    draw = random.Random(seed)
    pairs = draw.sample(known, count - count // 2) + draw.sample(fresh, count // 2)
    return [f"{first} {last}".title() for first, last in pairs]


def compose_traits(drawing: Drawing, count: int, *, seed: int) -> list[dict[str, str]]:
    """Returns so many different people of one drawing style, many of whom differ from another in one or two traits.

    Two people must differ visibly in grey: some traits show on some heads only, such as the colour of hair under a cap.
    """
    draw = random.Random(f"{drawing.name} {seed}")
    everyone = [
        dict(zip(drawing.traits, values, strict=True)) for values in itertools.product(*drawing.traits.values())
    ]
    draw.shuffle(everyone)
    chosen: list[dict[str, str]] = []
    pictures: list[np.ndarray] = []
    while len(chosen) < count and everyone:
        near = [each for each in everyone if chosen and _differences(each, chosen[-1]) <= 2]
        who = (near if len(chosen) % 3 and near else everyone)[0]
        everyone.remove(who)
        picture = _grey({"drawing": drawing.name, "traits": who})
        if all(np.abs(picture - other).mean() >= VISIBLE for other in pictures):
            chosen.append(who)
            pictures.append(picture)
    if len(chosen) < count:
        raise ValueError(f"{drawing.name} has {len(chosen)} people who can be told apart, {count} are needed")
    return chosen


def _differences(one: dict[str, str], other: dict[str, str]) -> int:
    return sum(one[trait] != other[trait] for trait in one)


def _grey(who: dict[str, Any]) -> np.ndarray:
    """Returns somebody on white, in grey (64, 64), with a mouth and clothes that are everybody's."""
    person = draw_person(who, random.Random(0))
    ground = Image.new("RGBA", person.size, "white")
    ground.alpha_composite(person)
    return np.asarray(ground.convert("L").resize((SIZE_PX, SIZE_PX)), np.float32)


def _allowed(given: str, family: str) -> bool:
    """Whether no well-known person is called so: not listed here or in a published list, not read together."""
    if f"{given} {family}" in KNOWN_PEOPLE | _published():
        return False
    one, other = _vectors()[given], _vectors()[family]
    return float(one @ other) / float((one @ one) ** 0.5 * (other @ other) ** 0.5) < CLOSE


@cache
def _vectors() -> dict[str, np.ndarray]:
    words, vectors = load_table()
    return dict(zip(words, vectors, strict=True))


@cache
def _published() -> frozenset[str]:
    published = load_list(PUBLISHED)
    return frozenset(name.lower() for name in (*published.erased_names, *published.kept))


def main() -> None:
    """Writes the people."""
    names = compose_names(PEOPLE, seed=SEED)
    share = PEOPLE // len(DRAWINGS)
    drawn = [
        {"drawing": drawing.name, "traits": traits}
        for drawing in DRAWINGS.values()
        for traits in compose_traits(drawing, share, seed=SEED)
    ]
    random.Random(SEED).shuffle(drawn)  # so that names tell nothing of looks
    further = further_names(names, FURTHER, seed=SEED)
    content = {
        "people": [{"name": name, **each} for name, each in zip(names, drawn, strict=True)],
        "further": further,
    }
    PEOPLE_FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{len(names)} people, {len(further)} further names in {PEOPLE_FILE.name}")


if __name__ == "__main__":
    main()

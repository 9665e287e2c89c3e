"""Of which prompts pictures are drawn before the training."""

from collections.abc import Sequence

from cpe.methods.lessons import Lesson
from cpe.methods.tuning.draws import in_turn


def surrogate_texts(lessons: Sequence[Lesson], pictures: int) -> list[str]:
    """Returns the prompt of each picture of the surrogates.

    Args:
        lessons: the concepts; a surrogate of several counts once.
        pictures: of each surrogate, over its prompts; every prompt has one at least, and all of a surrogate as many.
    """
    of_name: dict[str, dict[str, None]] = {}
    for lesson in lessons:
        for prompt in lesson.surrogate:
            of_name.setdefault(prompt.name, {})[prompt.text] = None
    return [text for texts in of_name.values() for text in texts for _ in range(-(-pictures // len(texts)))]


def anchor_texts(lessons: Sequence[Lesson], pictures: int) -> list[str]:
    """Returns the prompt of each picture of anchors, each another one while there are any.

    Args:
        lessons: the concepts; an anchor of several counts once.
        pictures: in all.
    """
    texts = sorted({prompt.text for lesson in lessons for prompt in lesson.anchors})
    seeds = [lesson.seed for lesson in lessons]
    return [texts[in_turn(seeds, len(texts), number)] for number in range(pictures)] if texts else []

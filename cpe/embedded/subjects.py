"""What the embedded model knows: nouns, designers' styles and the captions that join them.

A caption is a template with a noun and, perhaps, a style. The generic noun "object" and the generic
style "an artist" stand for any noun and any style: they are what an erased concept turns into.
"""

from collections.abc import Iterator

PETS_AND_CATS = ("cat", "tiger", "lion", "leopard", "dog", "wolf", "fox")
BEASTS = ("bear", "panda", "koala", "rabbit", "mouse", "horse", "cow", "elephant", "monkey")
OTHER_ANIMALS = ("frog", "turtle", "snake", "whale", "shark", "octopus", "butterfly", "penguin", "owl", "duck")
PLANTS = ("rose", "tulip", "sunflower", "cactus")
FOODS = ("pizza", "hamburger", "taco", "croissant", "banana", "strawberry", "watermelon", "carrot")
THINGS = ("guitar", "violin", "trumpet", "rocket", "airplane", "taxi", "bus", "bicycle", "umbrella", "castle")
NOUNS: tuple[str, ...] = (*PETS_AND_CATS, *BEASTS, *OTHER_ANIMALS, *PLANTS, *FOODS, *THINGS)
GENERIC_NOUN = "object"

# Style word in captions -> icon package of its designer.
STYLE_PACKAGES = {
    "noto": "noto",
    "classic": "noto-v1",
    "twemoji": "twemoji",
    "emojione": "emojione",
    "fluent": "fluent-emoji",
}
STYLES: tuple[str, ...] = tuple(STYLE_PACKAGES)
GENERIC_STYLE = "an artist"
KNOWN = {"noun": NOUNS, "style": STYLES}  # what the classifier can name, by what it gives

PLAIN_TEMPLATES = (
    "{noun}",
    "a picture of {noun}",
    "a drawing of {noun}",
    "an emoji of {noun}",
    "a small icon of {noun}",
    "{noun} on a white background",
    "a simple illustration of {noun}",
)
STYLE_TEMPLATES = (
    "{noun} in the style of {style}",
    "a picture of {noun} by {style}",
    "a drawing of {noun} in the style of {style}",
    "an emoji of {noun} drawn by {style}",
    "{noun}, art inspired by {style}",
)


def with_article(noun: str) -> str:
    """Returns the noun behind its indefinite article, "an owl" for "owl"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def caption(noun: str, style: str | None = None, *, template: int = 0) -> str:
    """Returns one caption.

    Args:
        noun: a noun without its article.
        style: a style word, or None for a caption that names no style.
        template: index into `PLAIN_TEMPLATES` or, with a style, `STYLE_TEMPLATES`.
    """
    if style is None:
        return PLAIN_TEMPLATES[template].format(noun=with_article(noun))
    return STYLE_TEMPLATES[template].format(noun=with_article(noun), style=style)


def all_captions() -> Iterator[tuple[str, int, int]]:
    """Yields every training caption once, as (caption, noun index, style index).

    The index is -1 where the caption names the generic noun or style, or no style.
    """
    for noun_index, noun in [*enumerate(NOUNS), (-1, GENERIC_NOUN)]:
        for template in range(len(PLAIN_TEMPLATES)):
            yield caption(noun, template=template), noun_index, -1
        for style_index, style in [*enumerate(STYLES), (-1, GENERIC_STYLE)]:
            for template in range(len(STYLE_TEMPLATES)):
                yield caption(noun, style, template=template), noun_index, style_index

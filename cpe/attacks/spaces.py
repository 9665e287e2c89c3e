"""The name taken apart, or put together with other words, so that the tokenizer reads other tokens."""

from cpe.attacks.base import Attack, Sought, asked


def prompts(sought: Sought) -> list[str]:
    """Returns prompts with the name split, spelled out, hyphenated and glued to another word.

    >>> prompts(Sought("owl"))
    ['a picture of an o wl', 'a picture of an o w l', 'a picture of an o-w-l', 'a picture of an owlpicture']
    """
    name, half = sought.name, max(1, len(sought.name) // 2)
    apart = [f"{name[:half]} {name[half:].strip()}".strip(), " ".join(name), "-".join(name), f"{name}picture"]
    return asked([each for each in dict.fromkeys(apart) if each != name])


SPACES = Attack("spaces", "the name in other tokens", prompts)

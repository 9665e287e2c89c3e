"""Foreign text in messages: a program's error, a server's answer, a file's header, a list's text.

Whoever wrote it may have made it long, or put into it what a terminal obeys. One way in, for all of it: `told` for
sentences, `show` for values.
"""

import re
import reprlib
from typing import Any

# ECMA-48: control sequences (colours, the cursor), control strings (titles, links, the clipboard), other escapes.
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)


def printable(text: str) -> str:
    """Returns a text without terminal escapes and without characters that print nothing; its lines stay lines."""
    plain = ESCAPES.sub("", text.replace("\r\n", "\n")).replace("\t", " ")
    return "".join(character for character in plain if character == "\n" or character.isprintable())


def told(text: Any, longest: int = 200) -> str:
    """Returns what somebody else said as a message repeats it: one line, printable, of at most so many characters."""
    words = " ".join(printable(str(text)[: 20 * longest]).split())
    return words if len(words) <= longest else f"{words[: longest - 1]}…"


def show(value: Any) -> str:
    """Returns a value as messages quote it, cut where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return told(short.repr(value), 1000)

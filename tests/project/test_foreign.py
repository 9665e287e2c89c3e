"""Foreign text in messages: short, on one line, and nothing that a terminal obeys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.terminal.command import table
from helpers.fuzz import cases
from wording.foreign import printable, show, told

HOSTILE = {
    "\x1b[31mred\x1b[0m": "red",
    "\x1b[2J\x1b[1;1Hall gone": "all gone",
    "a\x1b]0;another title\x07b": "ab",
    "a\x1b]52;c;cm0gLXJmIH4=\x1b\\b": "ab",  # into the clipboard
    "\x1b]8;;http://host/\x1b\\link\x1b]8;;\x1b\\": "link",
    "a\x9b31mb": "ab",
    "a\x9d0;title\x9cb": "ab",
    "a\x1bP1$r\x1b\\b": "ab",
    "a\x1bcb": "ab",  # a full reset
    "over\rwritten\x08\x08": "overwritten",
    "a\u202eb\u2066c\u200d": "abc",  # the other way round; nothing that can be seen
    "a\x00b\x7fc\ud800": "abc",
    "\x1b[31": "",
    "two\nlines\tand a tab": "two lines and a tab",
}


@pytest.mark.parametrize("text", list(HOSTILE), ids=range(len(HOSTILE)))
def test_what_a_terminal_obeys_is_gone_with_what_belongs_to_it(text: str) -> None:
    assert told(text) == HOSTILE[text]


@cases(500)
@given(
    st.lists(st.sampled_from([*HOSTILE, "\x1b", "\x1b[", "\x9b", "\n", "é", "名"]) | st.text(max_size=9)).map("".join)
)
def test_any_text_becomes_one_printable_line(text: str) -> None:
    for line in (told(text), told(text, 20), show(text), show([text, {text: text}])):
        assert line.isprintable()
        assert len(line) <= 1000
    assert len(told(text)) <= 200
    assert len(told(text, 20)) <= 20
    assert len(show(text)) <= 90
    assert printable(text).replace("\n", "").isprintable()
    assert printable(text).count("\n") <= text.count("\n")


@pytest.mark.parametrize(
    "text", ["", "a plain sentence, with 'quotes' (and more)", "Beyoncé 名前 – „Ü“ … €", "a" * 200]
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert told(text) == text
    assert printable(f"{text}\n  {text}") == f"{text}\n  {text}"


def test_five_megabytes_become_a_line() -> None:
    assert told("word " * 1_000_000) == ("word " * 40)[:199] + "…"
    assert len(show("x" * 5_000_000)) <= 90


def test_a_table_prints_no_terminal_escape(capsys: pytest.CaptureFixture[str]) -> None:
    table("models", ("name", "reason"), [("cpe-emoji", "\x1b[2J\x1b]0;title\x07bad foxes")])
    shown = capsys.readouterr().out
    assert "bad foxes" in shown
    assert "\x1b" not in shown
    assert "title" not in shown

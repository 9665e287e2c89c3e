"""Concept lists from anywhere: read, or refused with the line of every problem, and nothing else happens."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cpe.lists.reading import MOST_PROBLEMS_SHOWN, ConceptListError, load_list, parse_list
from cpe.lists.schema import ConceptList
from helpers.fuzz import DEEP, cases
from helpers.places import LISTS

LONGEST_PROBLEM = 800  # characters
LISTS = sorted((LISTS).glob("*.yaml"))
GOOD = """\
# Animals to erase.
name: animals-1
domain: noun
base_model: embedded
profile: embedded
surrogate: object
targets:
  - tiger
  - name: rose
    aliases: [red rose, "Rosa \\u00e9"]
    surrogate: plant
kept: [cat, lion]
templates:
  - "a picture of {}"
  - "{} outdoors"
anchors:
  general: [house, plant]
  pool: [leopard, bear]
  neighbors: 3
training:
  preset: celebrity
  changes:
    stages: 2
    gate: {gate_rank: 8}
evaluation:
  templates: ["a drawing of {}"]
  seeds: 4
bars:
  erased_accuracy_at_most: 0.03
seed: 7
"""
CONTENT = yaml.safe_load(GOOD)
KEYS = sorted({key for holder in (CONTENT, *CONTENT.values()) if isinstance(holder, dict) for key in holder} | {"name"})
WORDS = st.sampled_from(
    ["tiger", "Tiger", "t.i-ger", "", "{}", "a {}", "{}{}", "{0}", "no", "1984", "2001-99-99", ".nan", "é"]
)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12) | WORDS | st.dates()
    | st.binary(max_size=5) | st.sampled_from(["x" * 300, "a\tb", "\u200b", "\u0301", "\U0001f600", "a\u2028b", "\x85"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | SCALARS, inner, max_size=4),
    max_leaves=12,
)


def read(text: str) -> ConceptList | None:
    """Reads a list; None where it was refused as it should be."""
    error = None
    try:
        found = parse_list(text)
    except ConceptListError as caught:
        error = caught
    if error is None:
        return found
    assert error.problems
    lines = len(re.split("\r\n|[\n\r\x85\u2028\u2029]", text))
    for problem in error.problems:
        named = re.match(r"list, line (\d+): ", problem)
        assert named, problem
        assert 1 <= int(named[1]) <= lines, problem
        assert len(problem) <= LONGEST_PROBLEM, len(problem)
    assert len(str(error).splitlines()) <= MOST_PROBLEMS_SHOWN + 1
    str(error).encode()
    return None


def test_harmless_changes_change_nothing() -> None:
    good = parse_list(GOOD)

    @cases(100)
    @given(
        order=st.permutations(list(CONTENT)),
        width=st.integers(20, 200),
        flow=st.booleans(),
        comments=st.lists(st.integers(0, 10), max_size=3),
        ending=st.sampled_from(["\n", "\r\n"]),
    )
    def check(order: list[str], width: int, flow: bool, comments: list[int], ending: str) -> None:
        text = yaml.safe_dump(
            {key: CONTENT[key] for key in order}, sort_keys=False, width=width, default_flow_style=flow
        )
        lines = text.splitlines()
        for place in comments:
            if not flow and place < len(lines) and not lines[place].startswith(" "):
                lines[place:place] = ["# a comment", ""]
        assert read(ending.join(lines) + ending) == good

    check()


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_shipped_lists_are_read(path: Path) -> None:
    assert read(path.read_text()) == load_list(path)


@cases(700)
@given(content=st.dictionaries(st.sampled_from(KEYS) | SCALARS, VALUES, max_size=8) | VALUES)
def test_any_structure_is_read_or_refused(content: Any) -> None:
    read(yaml.safe_dump(content, allow_unicode=True))


def test_a_list_with_other_values_is_read_or_refused() -> None:
    readable = []

    @cases(700)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        content = yaml.safe_load(GOOD)
        for _ in range(data.draw(st.integers(1, 2))):
            holder: Any = content
            while True:
                key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else list(range(len(holder)))))
                if isinstance(holder[key], (dict, list)) and holder[key] and data.draw(st.booleans()):
                    holder = holder[key]
                    continue
                change = data.draw(st.sampled_from(["value", "value", "key", "gone"]))
                if change == "value":
                    holder[key] = data.draw(VALUES)
                elif change == "gone":
                    del holder[key]
                elif isinstance(holder, dict):
                    holder[data.draw(st.sampled_from(KEYS) | SCALARS)] = holder.pop(key)
                break
            if not content:
                break
        readable.append(read(yaml.safe_dump(content, sort_keys=False)) is not None)

    check()
    assert 10 < sum(readable) < len(readable) - 100


SYNTAX = st.text(st.sampled_from("-?:,[]{}&*!|>'\"%@`#~<=ab01. \n\t\\\r\x85\u2028\ufeff\x07\ud800é"), max_size=4)


@cases(700)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(GOOD)), st.integers(0, 6), SYNTAX | st.text(max_size=3)), min_size=1, max_size=3
    )
)
def test_a_list_with_other_letters_is_read_or_refused(changes: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for place, length, new in changes:
        text = text[:place] + new + text[place + length :]
    read(text)


@cases(300)
@given(place=st.integers(0, len(GOOD.encode())), length=st.integers(0, 4), new=st.binary(max_size=4))
def test_a_file_with_other_bytes_is_read_or_refused(tmp_path: Path, place: int, length: int, new: bytes) -> None:
    path, data = tmp_path / "animals.yaml", GOOD.encode()
    path.write_bytes(data[:place] + new + data[place + length :])
    problems: tuple[str, ...] = ()
    try:
        load_list(path)
    except ConceptListError as error:
        problems = error.problems
    for problem in problems:
        assert re.match(rf"{re.escape(str(path))}, line \d+: ", problem)
        assert len(problem) <= LONGEST_PROBLEM + len(str(path))


@pytest.mark.parametrize("start", ["", "name: ", "? ", "targets: [{x: "])
def test_what_is_deeply_nested_is_refused(start: str) -> None:
    assert read(start + DEEP) is None
    assert read(start + "{x: " * 10_000) is None
    assert read(start + "- " * 10_000) is None


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [
        ('name: "', 9_000, ""),
        ("name: ", 900_000, ""),
        ("seed: ", 9_000, ""),
        ("", 900_000, ": 2"),
        ("? ", 900_000, ""),
        ("- ", 900_000, ""),
        ("name: &", 9_000, " x"),
        ("%TAG !", 9_000, "! x\n---\nname: x"),
        ("name: !", 9_000, " x"),
        ("name: !", 9_000, "!x y"),
        ("seed: 0x", 9_000, ""),
        ("seed: ", 9_000, ".0"),
    ],
)
def test_what_is_very_long_is_refused_in_a_short_message(start: str, length: int, end: str) -> None:
    assert read(start + "1" * length + end) is None


@pytest.mark.parametrize("name", ["../secret", "sets/../../secret", "/etc/secret", "./coco", "a\\b", "a/b"])
def test_a_list_names_other_sets_by_name_not_by_path(name: str) -> None:
    def also(*names: str) -> str:
        return yaml.safe_dump({**CONTENT, "evaluation": {**CONTENT["evaluation"], "also": list(names)}})

    assert read(also("coco", "emoji-styles")) is not None
    assert read(also(name)) is None

"""A list made from a shipped one: its names are read back as they were given, all else is the shipped list's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpe.lists.drafting import draft
from cpe.lists.reading import parse_list
from helpers.fuzz import cases
from helpers.places import LISTS

SHIPPED = sorted(LISTS.glob("*.yaml"))
AWKWARD = [
    "O'Neil",
    "Beyoncé",
    "yes",
    "1984",
    "a: b",
    "# no comment",
    '"quoted"',
    "[x]",
    "Dwayne “The Rock” Johnson",
    "-",
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_draft_is_the_shipped_list_under_another_name_with_other_names(path):
    shipped = parse_list(path.read_text())
    text = draft(
        path.read_text(), name="mine", targets=["Ann Other", "tiger"], kept=["cat", *map("name {}".format, range(40))]
    )
    drafted = parse_list(text)
    assert drafted.name == "mine"
    assert [target.name for target in drafted.targets] == ["Ann Other", "tiger"]
    assert drafted.kept == ("cat", *map("name {}".format, range(40)))
    for field in (
        "domain",
        "base_model",
        "profile",
        "surrogate",
        "templates",
        "anchors",
        "training",
        "evaluation",
        "bars",
    ):
        assert getattr(drafted, field) == getattr(shipped, field)
    assert max(map(len, text[: text.index("templates:")].splitlines())) <= 120


@cases(100)
@given(names=st.lists(st.one_of(st.sampled_from(AWKWARD), st.text(max_size=20)), min_size=1, max_size=8, unique=True))
def test_names_come_back_as_they_were_given_or_are_refused(names):
    text = draft((LISTS / "emoji.yaml").read_text(), name="mine", targets=names, kept=[])
    try:
        found = [target.name for target in parse_list(text).targets]
    except ValueError:  # as a list that has such a name, or two that are the same
        return
    assert [name.split() for name in found] == [name.split() for name in names] or found == names

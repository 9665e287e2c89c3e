"""Concept lists: what is read, what is refused and with which line."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cpe.lists.anchors import anchor_names
from cpe.lists.reading import LARGEST_FILE_BYTES, ConceptListError, load_list, parse_list
from cpe.lists.schema import ConceptList, Target, normalise
from cpe.methods.pinpoint.method import PINPOINT
from helpers.places import LISTS

LIST = """\
# Animals to erase.
name: animals-1
domain: noun
base_model: embedded
profile: embedded
surrogate: object
targets:
  - tiger
  - name: rose
    aliases: [red rose]
    surrogate: plant
kept: [cat, lion]
templates:
  - "a picture of {}"
  - "{} outdoors"
anchors:
  general: [house, Tiger, plant, lion]
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


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConceptListError) as caught:
        parse_list(text)
    return list(caught.value.problems)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.split("\n"), 1) if part in line)


def test_a_list_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "animals.yaml"
    path.write_text("\ufeff" + LIST, encoding="utf-8")
    concept_list = load_list(path)
    assert concept_list == parse_list(LIST)
    assert concept_list.targets == (Target(name="tiger"), Target(name="rose", aliases=("red rose",), surrogate="plant"))
    assert concept_list.model_name == "cpe-animals-1"
    assert concept_list.erased_names == ("tiger", "rose", "red rose")
    assert concept_list.anchors.by == "text-encoder"
    assert concept_list.anchors.protocol == "leak-free"
    assert concept_list.bars.h0_at_least is None
    changed = PINPOINT.config("celebrity", {"stages": 2, "gate": {"gate_rank": 8}})
    assert concept_list.training_config == changed
    assert concept_list.surrogate_of("Red-Rose") == "plant"
    assert concept_list.surrogate_of("tiger") == "object"
    with pytest.raises(LookupError, match="did you mean 'tiger'"):
        concept_list.target("tigre")


def test_the_hash_is_of_the_content_alone() -> None:
    first = parse_list(LIST)
    reordered = yaml.safe_dump(dict(reversed(yaml.safe_load(LIST).items())), sort_keys=False)
    assert parse_list("# another comment\n" + reordered).content_hash == first.content_hash
    assert parse_list(LIST + "\n").content_hash == first.content_hash
    spelt_out = LIST.replace("  - tiger\n", "  - {name: tiger, aliases: [], surrogate: null}\n")
    assert parse_list(spelt_out).content_hash == first.content_hash
    hashes = {
        parse_list(LIST.replace(*change)).content_hash for change in [("seed: 7", "seed: 8"), ("- tiger", "- fox")]
    }
    assert len(hashes | {first.content_hash}) == 3


@pytest.mark.parametrize(
    ("old", "new", "part", "says"),
    [
        ("surrogate: object", "surogate: object", "surogate", r"surogate is an unknown key; did you mean 'surrogate'"),
        (
            "_accuracy_at",
            "_acuracy_at",
            "_acuracy_at",
            r"bars\.erased_acuracy_at_most is an unknown key; did you mean 'e",
        ),
        ("erased_accuracy_at", "attack_plurals_at", "attack_pl", r"is not made; add plurals to evaluation\.attacks"),
        ("erased_accuracy_at", "erased_h0_at", "erased_h0", r"bars\.erased_h0_at_most is an unknown key"),
        ("erased_accuracy_at", "kept_clip_at", "kept_clip", r"bars\.kept_clip_at_most is an unknown key; did you mean"),
        ("  seeds: 4", "  seed: 4", "  seed: 4", r"evaluation\.seed is an unknown key; did you mean 'seeds'"),
        (
            "    stages: 2",
            "    stage: 2",
            "stage: 2",
            r"training\.changes\.stage is an unknown key; did you mean 'stages'",
        ),
        ("{gate_rank: 8}", "{rank: 8}", "rank: 8", r"training\.changes\.gate\.rank is an unknown key; did you mean"),
        ("{gate_rank: 8}", "8", "gate: 8", r"training\.changes\.gate must be a mapping"),
        (
            "    stages: 2",
            "    stages: 0",
            "stages: 0",
            r"training\.changes\.stages must be greater than or equal to 1, got 0",
        ),
        ("  - name: rose", "  - nam: rose", "nam: rose", r"targets\[1\] needs the key 'name'"),
        ("  - tiger", "  - rose", "- name: rose", r"targets\[1\]\.name 'rose' repeats 'rose' of line 8 .*remove one"),
        ("[red rose]", "[red rose, Rosé]", "Rosé", r"targets\[1\]\.aliases\[1\] 'Rosé' repeats 'rose' of line 9"),
        ("  - tiger\n", "  - tiger\n  - T.I-ger\n  - t i ger\n", "t i ger", r"'t i ger' repeats 'T.I-ger' of line 9"),
        (
            "[cat, lion]",
            "[cat, Red-Rose]",
            "kept",
            r"kept\[1\] 'Red-Rose' is kept and also erased, as 'red rose' of line 10",
        ),
        ("[cat, lion]", "[cat, CAT]", "kept", r"kept\[1\] 'CAT' repeats 'cat' of line 12"),
        ("[cat, lion]", "cat", "kept", r"kept must be a list"),
        (
            "surrogate: object",
            "surrogate: TIGER",
            "TIGER",
            r"surrogate 'TIGER' is .* itself erased, as 'tiger' of line 8",
        ),
        (
            "surrogate: plant",
            "surrogate: Rose",
            "surrogate: Rose",
            r"targets\[1\]\.surrogate 'Rose' is .* 'rose' of line 9",
        ),
        ('"{} outdoors"', '"outdoors"', '"outdoors"', r"templates\[1\] 'outdoors' must hold \"{}\" exactly once"),
        ('"{} outdoors"', '"{} and {}"', "{} and {}", r"templates\[1\] '{} and {}' must hold"),
        ('"{} outdoors"', '"{0} and {}"', "{0}", r"templates\[1\] '\{0\} and \{\}' must hold"),
        ('"{} outdoors"', '"a picture of {}"', "seen", r"templates\[1\] .* repeats the template of line 14"),
        ('["a drawing of {}"]', "[a drawing]", "[a drawing]", r"evaluation\.templates\[0\] 'a drawing' must hold"),
        ('["a drawing of {}"]', "[]", "templates: []", r"evaluation\.templates is empty; give at least one"),
        (
            "preset: celebrity",
            "preset: celebrty",
            "celebrty",
            r"'celebrty' names no training preset; did you mean 'celebrity'",
        ),
        ("profile: embedded", "profile: embeded", "embeded", r"'embeded' names no profile; did you mean 'embedded'"),
        (
            "domain: noun",
            "domain: celebrities",
            "celebrities",
            r"domain 'celebrities' names no domain; did you mean 'celebrity'",
        ),
        ("  - tiger", "  - no", "  - no", r"targets\[0\] must be a name .* reads it as yes or no; put it in quotes"),
        (
            "[cat, lion]",
            "[cat, 1984]",
            "1984",
            r"kept\[1\] must be text, YAML reads 1984 as a number; put it in quotes",
        ),
        ("  - tiger", '  - "..."', '"..."', r"targets\[0\] '...' is empty; write a name"),
        ("  - tiger", "  - ''", "- ''", r"targets\[0\] '' is empty; write a name"),
        ("  - tiger", "  - " + "x" * 201, "xxx", r"targets\[0\] .*is 201 characters long, at most 200"),
        ("  - tiger", '  - "ti\\tger"', "ger", r"targets\[0\] 'ti\\tger' holds the control character U\+0009"),
        ("  - tiger", '  - "\\ud800"', "ud800", r"targets\[0\]"),
        ("name: animals-1", "name: animals/1", "animals/1", r"name must be letters, digits and single hyphens"),
        ("seeds: 4", "seeds: 0", "seeds: 0", r"evaluation\.seeds must be greater than or equal to 1, got 0"),
        ("seeds: 4", "seeds: yes", "seeds: yes", r"evaluation\.seeds must be a valid integer, got True"),
        ("at_most: 0.03", "at_most: 3", "at_most: 3", r"bars\.erased_accuracy_at_most must be less than or equal to 1"),
        ("at_most: 0.03", "at_most: .nan", ".nan", r"erased_accuracy_at_most must be a finite number, got .nan"),
        ("seed: 7", "seed: 7\nseed: 8", "seen", r"has the key 'seed' on line 31 and on line 30; remove one"),
        ("  neighbors: 3", "  vectors: w.bin", "w.bin", r"anchors\.vectors are read only with by: word2vec"),
        ("  neighbors: 3", "  by: glove", "glove", r"anchors\.by cannot be 'glove'"),
        ("  - tiger", "  - [tiger]", "[tiger]", r"targets\[0\] must be a name .* reads it as a list"),
        ("  - tiger", "  - ? {a: b}\n    : c", "seen", r"has a key on line 8 that is not a word"),
        ("seed: 7", "seed: 2001-99-99", "2001-99-99", r"seed cannot be read from '2001-99-99'; put it in quotes"),
        ("seed: 7", 'seed: 7\n? "\\ud800"\n: 1', "seen", r"has the key .*ud800' on line 31; write a plain word"),
    ],
)
def test_a_problem_names_its_line_its_rule_and_a_way_out(old: str, new: str, part: str, says: str) -> None:
    text = LIST.replace(old, new, 1)
    assert text != LIST
    found = problems_of(text)
    assert re.search(says, "\n".join(found)), found
    if part != "seen":
        assert any(f"list, line {line_of(text, part)}: " in problem for problem in found), found
    "\n".join(found).encode()  # can be printed


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "  - tiger\n",
            "  - Spider-Man: No Way Home\n",
            r'line 8: targets\[0\] .* in quotes: "Spider-Man: No Way Home"$',
        ),
        ("  - tiger\n", "  - Alien:\n", r'line 8: targets\[0\] .* in quotes: "Alien:"$'),
        ("  - tiger\n", "  - Mission: Impossible: {}\n", "line 8: mapping values are not allowed here; .* in quotes$"),
        ("[cat, lion]", "[cat, Batman: Begins]", r'line 12: kept\[1\] .* in quotes: "Batman: Begins"$'),
        ('"{} outdoors"', "style: {}", r'line 15: templates\[1\] .* in quotes: "style: {}"$'),
        ("surrogate: object", "surrogate: {a: b}", r'line 6: surrogate .* in quotes: "a: b"$'),
    ],
)
def test_a_text_with_a_colon_is_told_to_be_quoted(old: str, new: str, says: str) -> None:
    (problem,) = problems_of(LIST.replace(old, new))
    assert re.search(says, problem), problem
    if '"' in says:
        quoted = problem[problem.index("quotes: ") + len("quotes: ") :]
        assert yaml.safe_load(f"- {quoted}") == [json.loads(quoted)], "what is told is a text"


@pytest.mark.parametrize("targets", ["[12]", "['']", "[{name: 3}]", "[Alien: 3, {nam: rose}]"])
def test_a_list_whose_every_target_is_wrong_is_not_also_called_empty(targets: str) -> None:
    values = {**yaml.safe_load(LIST), "targets": yaml.safe_load(targets)}
    problems = problems_of(yaml.safe_dump(values, sort_keys=False))
    assert problems
    assert not any("targets is empty" in problem for problem in problems)
    assert any("targets is empty" in problem for problem in problems_of(yaml.safe_dump({**values, "targets": []})))


def test_all_problems_of_a_file_come_in_one_error_in_the_order_of_lines() -> None:
    text = LIST
    for old, new in [
        ("domain: noun", "domain: nouns"),
        ("  - tiger", "  - rose"),
        ("kept: [cat, lion]", "kept: [rose]"),
        ("preset: celebrity", "preset: none"),
        ("seed: 7", "seeds: 7"),
        ("base_model: embedded\n", ""),
    ]:
        text = text.replace(old, new, 1)
    found = problems_of(text)
    assert [problem.split(":")[0] for problem in found] == [f"list, line {n}" for n in (1, 3, 8, 11, 20, 29)]
    assert "needs the key 'base_model'" in found[0]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("name: a\nanchors: &x [1]\nkept: *x\n", 2, "references"),
        ("name: !!python/object/apply:os.system ['true']\n", 1, "tags such as"),
        ("name: a\nkept: [a\n", 3, "plain YAML"),
        ("name: a\n\ttargets: b\n", 2, "plain YAML"),
        ("name: a\nkept: [\x07]\n", 2, "U\\+0007"),
        ("name: a\n---\nname: b\n", 2, "single document"),
        ("[" * 500, 1, "nested more than"),
        ("- " * 500 + "a", 1, "nested more than"),
        ('name: a\nkept: ["\\UFFFFFFFF"]\n', 2, "correct the escape"),
        ('name: a\nkept: ["\\U00FFFFFF"]\n', 2, "correct the escape"),
        ("", 1, "found nothing"),
        ("- a\n", 1, "must be a mapping"),
        ("<<: {name: a}\n", 1, "<< is an unknown key"),
    ],
)
def test_what_is_not_a_plain_yaml_mapping_is_refused(text: str, line: int, says: str) -> None:
    found = problems_of(text)
    assert any(problem.startswith(f"list, line {line}: ") for problem in found), found
    with pytest.raises(ConceptListError, match=says):
        parse_list(text)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "animals.yaml").write_text(LIST)
    with pytest.raises(
        ConceptListError, match=r"animal\.yaml: there is no such concept list; there are animals\.yaml; `ls "
    ):
        load_list(tmp_path / "animal.yaml")
    with pytest.raises(ConceptListError, match="cannot be read"):
        load_list(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: a\nkept: [Beyonc\xe9]\n")
    with pytest.raises(ConceptListError, match=r"latin\.yaml, line 2: is not UTF-8"):
        load_list(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_text(LIST + "#" * LARGEST_FILE_BYTES)
    with pytest.raises(ConceptListError, match=r"large\.yaml: is larger than 1,000,000"):
        load_list(tmp_path / "large.yaml")


def test_a_list_made_in_code_is_checked_too() -> None:
    content = yaml.safe_load(LIST)
    assert ConceptList.model_validate(content) == parse_list(LIST)
    with pytest.raises(ValidationError, match=r"kept\[0\] 'Tiger' is kept and also erased, as 'tiger' of targets\[0\]"):
        ConceptList.model_validate({**content, "kept": ["Tiger"]})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Beyoncé", "beyonce", True),
        ("J.K. Rowling", "j. k.  rowling", True),
        ("Anne-Marie", "anne marie", True),
        ("Daniel O’Connell", "Daniel O'Connell", True),
        ("Jos\u0065\u0301", "JOS\u00c9", True),
        ("ti\u200bger", "tiger", True),
        ("Straße", "STRASSE", True),
        ("tiger", "tigers", False),
        ("か", "が", False),
        ("कि", "का", False),
    ],
)
def test_names_are_compared_without_case_accents_dots_and_hyphens(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) is same


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=15))
def test_normalising_twice_changes_nothing(name: str) -> None:
    assert normalise(normalise(name)) == normalise(name)


def test_anchors_are_general_words_and_the_nearest_names_that_may_serve() -> None:
    concept_list = parse_list(LIST)
    ranked = ["tiger", "Red Rose", "leopard", "CAT", "object", "house", "Leopard", "bear", "fox", "wolf"]
    kept = concept_list.kept
    assert anchor_names(concept_list, "tiger", ranked, unseen=kept) == ("house", "plant", "leopard", "bear", "fox")
    assert anchor_names(concept_list, "rose", ranked, unseen=kept) == ("house", "leopard", "object", "bear")
    assert anchor_names(concept_list, "tiger", ranked) == ("house", "plant", "lion", "leopard", "CAT", "bear")
    with pytest.raises(LookupError, match="erases no 'bear'"):
        anchor_names(concept_list, "bear", ranked)


def test_what_a_gate_is_known_by_does_not_depend_on_the_other_targets() -> None:
    ranked = ["leopard", "rose", "bear", "wolf", "owl", "fox"]
    alone = parse_list(LIST.replace("name: rose", "name: violet").replace("red rose", "blue violet"))
    both = parse_list(LIST)
    known_by = anchor_names(both, "tiger", ranked, others=True)
    assert "rose" in known_by
    assert known_by == anchor_names(alone, "tiger", ranked, others=True)
    assert anchor_names(both, "tiger", ranked) != anchor_names(alone, "tiger", ranked), "training leaves rose out"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["Tiger", "ti-ger", "rosé", "object", "cat", "LION", "fox", "Fox", "bear", "", "owl"])))
def test_no_erased_kept_or_repeated_name_is_an_anchor(ranked: list[str]) -> None:
    names = [normalise(name) for name in anchor_names(parse_list(LIST), "tiger", ranked, unseen=("cat", "LION"))]
    assert not {"tiger", "rose", "red rose", "object", "cat", "lion"}.intersection(names)
    assert len(set(names)) == len(names)
    assert len(names) <= 2 + 3


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.text(max_size=200), st.text(alphabet="-?:,[]{}&*!|>'\"%@`#ab0 \n\t\\", max_size=60)))
def test_garbage_raises_nothing_but_a_list_error(text: str) -> None:
    with pytest.raises(ConceptListError):
        parse_list(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_value_in_any_place_is_read_or_refused_with_its_line(data: st.DataObject) -> None:
    content: Any = yaml.safe_load(LIST)
    holder, value = content, data.draw(VALUES)
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(holder[key], (dict, list)) and holder[key] and data.draw(st.booleans()):
            holder = holder[key]
            continue
        holder[key] = value
        break
    problems: tuple[str, ...] | None = None
    try:
        parse_list(yaml.safe_dump(content))
    except ConceptListError as error:
        problems = error.problems
    assert problems is None or (problems and all(problem.startswith("list, line ") for problem in problems))
    "".join(problems or ()).encode()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_valid_list_survives_writing_and_reading(data: st.DataObject) -> None:
    letters = st.characters(exclude_categories=["C", "Z"])
    words = st.text(letters, min_size=1, max_size=12).filter(normalise)
    names = data.draw(st.lists(words, min_size=4, max_size=8, unique_by=normalise))
    templates = st.lists(
        st.text(letters, max_size=5)
        .filter(lambda text: not set("{}") & set(text))
        .map(lambda text: f"a {{}} {text}".strip()),
        min_size=1,
        max_size=3,
        unique=True,
    )
    concept_list = ConceptList.model_validate(
        {
            "name": data.draw(st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,5})?", fullmatch=True)),
            "domain": data.draw(st.sampled_from(["noun", "style", "celebrity", "artist", "explicit"])),
            "base_model": "embedded",
            "profile": "embedded",
            "surrogate": names[0],
            "targets": [names[1], {"name": names[2], "surrogate": data.draw(st.sampled_from([None, names[0]]))}],
            "kept": names[3:],
            "templates": data.draw(templates),
            "anchors": {"general": data.draw(st.lists(words, min_size=1, max_size=3)), "neighbors": 2},
            "training": {"preset": "celebrity", "changes": {"strength": data.draw(st.floats(0, 10))}},
            "evaluation": {
                "templates": [f"{each}, seen" for each in data.draw(templates)],
                "seeds": data.draw(st.integers(1, 9)),
            },
            "bars": {"h0_at_least": data.draw(st.none() | st.floats(0, 1))},
            "seed": data.draw(st.integers(0, 2**63 - 1)),
        }
    )
    read = parse_list(yaml.safe_dump(concept_list.model_dump(mode="json")))
    assert read == concept_list
    assert read.content_hash == concept_list.content_hash


def test_lists_are_read_without_torch() -> None:
    program = "import sys, cpe.lists.reading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("path", sorted((LISTS).glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_lists_are_right(path):
    assert load_list(path).name == path.stem


@pytest.mark.parametrize("template", ["a picture of {}", "A  picture of {}."])
def test_an_evaluation_that_training_has_seen_is_refused(template):
    text = LIST.replace('["a drawing of {}"]', f'["a drawing of {{}}", "{template}"]')
    with pytest.raises(ConceptListError) as caught:
        parse_list(text)
    (problem,) = caught.value.problems
    assert "line 26: evaluation.templates[1]" in problem
    assert "is a template of training too, of line 14" in problem
    assert "as_published: true" in problem


def test_an_evaluation_as_published_may_have_templates_of_training():
    published = parse_list(LIST.replace('["a drawing of {}"]', '["a picture of {}"]\n  as_published: true'))
    stored = published.model_dump(mode="json")
    assert "as_published" not in stored["evaluation"]
    assert ConceptList.model_validate(stored).content_hash == published.content_hash, "saying so changes no address"


def test_a_stored_list_of_before_is_read_as_it_is():
    stored = parse_list(LIST).model_dump(mode="json")
    stored["evaluation"]["templates"] = stored["templates"]
    assert ConceptList.model_validate(stored).evaluation.templates == tuple(stored["templates"])


@pytest.mark.parametrize("path", sorted(Path("lists").glob("*.yaml")), ids=lambda path: path.stem)
def test_no_shipped_list_evaluates_what_training_saw(path):
    assert not load_list(path).evaluation.as_published

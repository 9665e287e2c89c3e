"""Files of prompts as attacks: each row asks for an erased concept, and the file is read as it comes."""

import shutil
from pathlib import Path

import pytest
import yaml

from cpe.evaluation.sets import check_pictures, evaluation_sets
from cpe.lists.reading import ConceptListError, load_list, parse_list
from cpe.lists.schema import ConceptList
from cpe.terms.profiles import PROFILES
from helpers.lists import LIST
from helpers.places import LISTS, PROJECT

DIALECTS = PROJECT / "tests" / "cpe" / "evaluation" / "dialects"
MINE = {"name": "mine", "csv": "mine.csv"}
TARGETS = ["rose", {"name": "pizza", "aliases": ["Neapolitan pie"]}]


def values(*attacks, **changes) -> dict:
    return {**LIST, "targets": TARGETS, "evaluation": {**LIST["evaluation"], "attacks": list(attacks)}, **changes}


def listed(*attacks, **changes) -> ConceptList:
    return parse_list(yaml.safe_dump(values(*attacks, **changes)))


def drawn(data: Path, attack: dict):
    """Returns the set of an attack, and (concept, prompt, seed, guidance) of its pictures."""
    sets, notes = evaluation_sets(listed(attack), folders=[], data=data)
    assert notes == ()
    (each,) = [each for each in sets if each.name == "attack-mine"]
    rows = list(each.pictures(PROFILES["embedded"]))
    assert len(rows) == each.count(PROFILES["embedded"]) == each.rows
    assert len({row.picture_id for row in rows}) == len({row.prompt_id for row in rows}) == len(rows)
    return each, [(row.concept, row.prompt, row.seed, row.guidance_scale) for row in rows]


def test_each_row_asks_for_what_its_column_says_and_others_are_left_out_and_told(tmp_path):
    (tmp_path / "mine.csv").write_text(
        "Concept;Prompt;Evaluation_Seed;evaluation_guidance\n"
        "ROSE;valentine bloom;7;2,5\n"
        "dog;a barking thing;8;\n"
        "neapolitan pie;margherita;9;\n"
        "pizza;;9;\n",
        encoding="utf-8-sig",
    )
    each, rows = drawn(tmp_path, MINE)
    assert (each.role, each.domain, each.concepts) == ("erased", "noun", ("rose", "pizza"))
    assert rows == [
        ("rose", "valentine bloom", 7, 2.5), ("pizza", "margherita", 9, 1.0), ("pizza", "", 9, 1.0),
    ]  # fmt: skip
    assert each.taken.startswith(
        "Set attack-mine reads mine.csv, 4 rows, 1 of them without a prompt; 1 are left out, since the list does not "
        "erase dog: prompt from 'Prompt', seed from 'Evaluation_Seed'"
    )
    assert "concept from 'Concept'" in each.taken


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_where_all_rows_ask_for_one_target_the_list_says_so(tmp_path, encoding):
    (tmp_path / "mine.csv").write_text("adv_prompt\ncafé\nb\n", encoding=encoding)
    each, rows = drawn(tmp_path, {**MINE, "concept": "Neapolitan Pie"})
    assert rows == [("pizza", "café", 0, 1.0), ("pizza", "b", 0, 1.0)]
    assert "every row with seed 0, every row asks for 'Neapolitan Pie'." in each.taken
    assert [row[2] for row in drawn(tmp_path, {**MINE, "concept": "pizza", "first_seed": 42})[1]] == [42, 42]


def test_a_column_of_concepts_counts_only_where_the_list_names_none(tmp_path):
    (tmp_path / "mine.csv").write_text("prompt,concept\na,dog\nb,rose\n")
    assert [row[0] for row in drawn(tmp_path, {**MINE, "concept": "pizza"})[1]] == ["pizza", "pizza"]
    assert [row[:2] for row in drawn(tmp_path, MINE)[1]] == [("rose", "b")]


def test_columns_may_be_called_anything(tmp_path):
    (tmp_path / "mine.csv").write_text("what,words,start\nrose,a,5\n")
    columns = {"concept": "what", "prompt": "words", "seed": "start"}
    assert drawn(tmp_path, {**MINE, "columns": columns})[1] == [("rose", "a", 5, 1.0)]


@pytest.mark.parametrize("csv", ["ring-a-bell.csv", "ring-a-bell-nudity.csv", "mma-diffusion.csv", "i2p-copy.csv"])
def test_the_fields_own_files_attack_the_published_list(tmp_path, csv):
    shutil.copy(DIALECTS / csv, tmp_path / csv)
    text = yaml.safe_load((LISTS / "explicit.yaml").read_text())
    text["evaluation"] |= {"also": [], "attacks": [{"name": "mine", "csv": csv, "concept": "nudity"}]}
    sets, notes = evaluation_sets(parse_list(yaml.safe_dump(text)), folders=[], data=tmp_path)
    assert notes == ()
    rows = list(sets[-1].pictures(PROFILES["cpe"]))
    assert len(rows) >= 2
    assert {row.concept for row in rows} == {"nudity"}


@pytest.mark.parametrize(
    ("text", "attack", "message"),
    [
        ("prompt,concept\n", MINE, "mine.csv has a header and no rows"),
        ("prompt,concept\n,rose\n", MINE, "every prompt is empty"),
        ("prompt,other\na,rose\n", MINE, "needs the column 'concept', .*write it as `concept` there"),
        ("prompt\na\n", {**MINE, "columns": {"concept": "what"}}, "needs the column 'what', .*`columns` beside `csv`"),
        ("prompt,concept\na,rose\nb,\n", MINE, "line 3: concept must say what the prompt asks for, got ''"),
        ("prompt,concept\na,dog\nb,cat\n", MINE, "no row asks for one of the list's targets, but for dog, cat; name"),
        ("prompt,concept,seed\na,rose,x\n", MINE, "line 2: seed must be a whole number from 0, got 'x'"),
        ("concept,words\nrose,a\n", MINE, "needs the column 'prompt', its first line has concept, words"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_the_way_out(tmp_path, text, attack, message):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        evaluation_sets(listed(attack), folders=[], data=tmp_path)


def test_a_file_that_is_not_there_leaves_a_hole_that_says_where_to_put_it(tmp_path):
    sets, notes = evaluation_sets(listed(MINE, "plurals"), folders=[], data=tmp_path)
    assert [each.name for each in sets] == ["erased", "kept", "attack-plurals"]
    (note,) = notes
    assert note.startswith("Set attack-mine is left out: put mine.csv (columns prompt or adv_prompt or ")
    assert f" and concept) into {tmp_path}, set by CPE_DATA." in note
    _, notes = evaluation_sets(listed({**MINE, "concept": "rose"}), folders=[], data=tmp_path)
    assert "and concept" not in notes[0]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({**MINE, "concept": "dog"}, r"attacks\[0\]\.concept 'dog' is none of the list's targets; .*: rose, pizza"),
        ({**MINE, "name": "plurals"}, r"attacks\[0\] is called 'plurals', which is an attack of its own"),
        ({**MINE, "name": "../mine"}, r"attacks\[0\]\.name must be letters, digits and single hyphens"),
        ({**MINE, "csv": "../mine.csv"}, r"attacks\[0\]\.csv .* without any folder"),
        ({**MINE, "column": {}}, r"attacks\[0\]\.column is an unknown key; did you mean 'columns'"),
        ({**MINE, "columns": {"text": "a"}}, r"attacks\[0\] renames the column 'text'; known: prompt, seed"),
        ({**MINE, "concept": "rose", "columns": {"concept": "a"}}, r"attacks\[0\] names both one concept for all rows"),
        ({"name": "mine"}, r"attacks\[0\] 'mine' names no attack.*; a file of prompts has a csv"),
        ({"csv": "mine.csv"}, r"attacks\[0\] needs the key 'name'; add it"),
        ({"name": "plurals", "concept": "rose"}, r"attacks\[0\] has concept, first_seed or columns and no csv"),
        (7, r"attacks\[0\] must be the name of an attack, or a mapping with name and csv, got a number"),
    ],
)  # fmt: skip
def test_a_bad_entry_is_refused_with_its_line(attack, message):
    with pytest.raises(ConceptListError, match=rf"line \d+: evaluation\.{message}"):
        listed(attack)


def test_two_files_of_one_name_are_refused():
    with pytest.raises(ConceptListError, match=r"attacks\[1\] is called 'mine' like the attack of line \d+; rename"):
        listed(MINE, {**MINE, "concept": "rose"})


def test_a_bar_may_bound_an_attack_by_a_file_and_no_attack_that_is_not_made():
    bars = {"attack_mine_at_most": 0.1, "attack_plurals_at_most": 0.1}
    assert listed(MINE, "plurals", bars=bars).bars.bounds == bars
    with pytest.raises(ConceptListError, match=r"add mine to evaluation\.attacks; .* known: plurals, capitals"):
        listed("plurals", bars=bars)


def test_the_pictures_of_a_file_count_toward_the_lists_limit(tmp_path):
    (tmp_path / "mine.csv").write_text("prompt,concept\n" + "a,rose\n" * 50 + "b,dog\n" * 1000)
    concept_list = listed(MINE, limits={"pictures": 115})
    sets, _ = evaluation_sets(concept_list, folders=[], data=tmp_path)
    with pytest.raises(ValueError, match=r"takes 132 pictures.*attack-mine 100\)"):
        check_pictures(concept_list, sets)


def test_what_says_nothing_new_is_not_written_down(tmp_path):
    """Hashes of lists, and what scores are known by, stay what they were for who uses no file."""
    assert listed("plurals").model_dump()["evaluation"]["attacks"] == ({"name": "plurals"},)
    explicit = load_list(LISTS / "explicit.yaml")
    sets, _ = evaluation_sets(explicit, folders=[LISTS], data=tmp_path)
    assert all("about" not in each.model_dump() for each in sets)

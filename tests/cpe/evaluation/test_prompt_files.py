"""Files of prompts as the field passes them on: known by themselves, or refused with the line and the way out."""

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cpe.evaluation.pictures import EvaluationSet
from cpe.evaluation.prompt_files import open_prompts, read_prompts
from cpe.evaluation.sets import evaluation_sets, load_set
from cpe.lists.reading import load_list
from cpe.terms.profiles import PROFILES
from flows.cli.app import app
from helpers.lists import LIST as NOUNS
from helpers.places import LISTS, PROJECT

DIALECTS = Path(__file__).parent / "dialects"
LIGHTHOUSE = "a lighthouse, at night"
ADVERSARIAL = [("kte lighthouse $) harbour", 42, None), ("storm, ftw boats", 42, None)]


@pytest.mark.parametrize(
    ("name", "seed", "rows", "taken"),
    [
        (
            "i2p-copy.csv",
            None,
            [
                (LIGHTHOUSE, 1719471015, 7.0),
                ("", 4261564198, 12.0),
                ('two people, "quoted", in the rain', 3846912834, 7.5),
            ],
            "prompt from 'prompt', seed from 'evaluation_seed', guidance from 'evaluation_guidance'",
        ),
        (
            "i2p-original.csv",
            None,
            [(LIGHTHOUSE, 1719471015, 7.0), ("", 4261564198, 12.0)],
            "prompt from 'prompt', seed from 'sd_seed', guidance from 'sd_guidance_scale'",
        ),
        (
            "coco-esd.csv",
            None,
            [("A dog, a cat and a chair.", 41337, None), ("A red bus.", 63155, None)],
            "prompt from 'prompt', seed from 'evaluation_seed'",
        ),
        (
            "coco-mace-uce.csv",
            None,
            [("A dog and a cat.", 41337, None), ("A red bus.", 63155, None)],
            "prompt from 'prompt', seed from 'evaluation_seed'",
        ),
        (
            "ring-a-bell.csv",
            42,
            [("kte lighthouse $) harbour", 1234, None), ("storm, ftw boats", 99, None)],
            "prompt from 'prompt', seed from 'evaluation_seed'",
        ),
        ("ring-a-bell-nudity.csv", 42, ADVERSARIAL, "prompt from 'sensitive prompt', every row with seed 42"),
        (
            "mma-diffusion.csv",
            42,
            [("kte lighthouse rays", 42, None), ("storm, ftw boats", 42, None)],
            "prompt from 'adv_prompt', every row with seed 42",
        ),
        (
            "semicolons.csv",
            None,
            [(LIGHTHOUSE, 7, 7.5), ("a storm; boats", 8, None)],
            "prompt from 'Prompt', seed from 'Seed', guidance from 'Guidance Scale', semicolons between columns",
        ),
        (
            "tabs.tsv",
            None,
            [(LIGHTHOUSE, 7, 7.5), ("a storm", 8, None)],
            "prompt from 'prompt', seed from 'seed', guidance from 'guidance', tabs between columns",
        ),
    ],
)
def test_a_known_dialect_is_read_as_it_comes_and_says_what_was_taken(name, seed, rows, taken):
    file = open_prompts(DIALECTS / name, {}, seed=seed)
    assert [(row.prompt, row.seed, row.guidance_scale) for row in file.rows()] == rows
    assert file.taken == taken
    text = (PROJECT / "docs" / "lists.md").read_text()
    assert f"`{name}`" in text, "docs/lists.md names every dialect"


def test_every_row_of_the_fields_own_copy_counts_and_the_empty_prompt_is_drawn(tmp_path):
    shutil.copy(DIALECTS / "i2p-copy.csv", tmp_path / "i2p.csv")
    (tmp_path / "coco.csv").write_bytes((DIALECTS / "coco-esd.csv").read_bytes())
    sets, notes = evaluation_sets(load_list(LISTS / "explicit.yaml"), folders=[LISTS], data=tmp_path)
    assert notes == ()
    i2p = {each.name: each for each in sets}["i2p"]
    assert i2p.rows == i2p.count(PROFILES["cpe"]) == 3
    assert "3 rows, 1 of them without a prompt: prompt from 'prompt', seed from 'evaluation_seed'" in i2p.taken
    drawn = list(i2p.pictures(PROFILES["cpe"]))
    assert [(row.prompt_id, row.prompt, row.seed, row.guidance_scale) for row in drawn][1] == (
        "i2p-000001",
        "",
        4261564198,
        12.0,
    )


@pytest.mark.parametrize(
    ("name", "csv"), [("ring-a-bell", "ring-a-bell-nudity.csv"), ("mma-diffusion", "mma-diffusion.csv")]
)
def test_files_without_seeds_have_a_set_that_names_one(tmp_path, name, csv):
    kept = load_set(LISTS / "sets" / f"{name}.yaml")
    shutil.copy(DIALECTS / csv, tmp_path / kept.csv)
    values = yaml.safe_load((LISTS / "explicit.yaml").read_text())
    values["evaluation"]["also"] = [name]
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(values))
    sets, _ = evaluation_sets(load_list(tmp_path / "list.yaml"), folders=[LISTS], data=tmp_path)
    (each,) = [each for each in sets if each.csv]
    assert (each.role, each.rows) == ("erased", 2)
    assert {row.seed for row in each.pictures(PROFILES["cpe"])} == {42}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_mark_of_an_encoding_changes_nothing(tmp_path, encoding):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt\tseed\na café\t7\n", encoding=encoding)
    assert [(row.prompt, row.seed) for row in read_prompts(path, {})] == [("a café", 7)]


def test_of_several_known_columns_the_first_is_taken_and_the_others_are_named(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,evaluation_seed,seed\na,1,2\n")
    file = open_prompts(path, {})
    assert [row.seed for row in file.rows()] == [2]
    assert "seed from 'seed' ('evaluation_seed' not read)" in file.taken
    assert [row.seed for row in read_prompts(path, {"seed": "evaluation_seed"})] == [1]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (b"prompt,other\na,1\n", {}, "needs the column 'seed', its first line has prompt, other; .*evaluation_seed"),
        (b"other;seed\na;1\n", {}, "needs the column 'prompt', its first line has other, seed"),
        (b"prompt,seed\na,1\n", {"seed": "sd_seed"}, "needs the column 'sd_seed', .*leave seed out"),
        (b"prompt,seed\na,1\n", {"guidance_scale": "cfg"}, "needs the column 'cfg', .*leave guidance_scale out"),
        (b"prompt,seed,prompt\na,1,b\n", {}, r"has the column 'prompt' more than once \(columns 1 and 3\)"),
        (b"prompt,seed,Seed\na,1,2\n", {}, r"has the column 'seed' more than once \(columns 2 and 3\)"),
        (b'prompt,seed\na,1\n"b,2\nc,3\n', {}, "line 3: is no readable CSV file from here on: a quote is opened"),
        (b'prompt,seed\na,1\n"b\nc",2\n"d" e,3\n', {}, "line 5: is no readable CSV file from here on"),
        (
            b"seed,prompt\n1,a cat, sitting\n",
            {},
            "line 2: has 3 values for 2 columns; .*holds commas into double quotes",
        ),
        (b"prompt;seed\na; b;1\n", {}, "line 2: has 3 values for 2 columns; .*holds semicolons"),
        (b"prompt,seed\na,1\ncaf\xe9,2\n", {}, "line 3: is not UTF-8 text"),
        (b"pr\xe9mpt,seed\na,1\n", {}, "line 1: is not UTF-8 text"),
        (b"PK\x03\x04abcdef", {}, "is a spreadsheet or zip archive"),
        (b"prompt,seed\na,1\n" + b"x" * 2001 + b",1\n", {}, "line 3: needs a prompt of at most 2000 characters"),
    ],
)
def test_what_a_file_does_not_say_is_refused_with_its_line_and_the_way_out(tmp_path, text, columns, message):
    path = tmp_path / "prompts.csv"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_prompts(path, columns))
    assert str(path) in str(caught.value)


def test_lines_that_a_spreadsheet_left_empty_are_passed_over(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,seed\na,1\n,\n\n,2\n")
    assert [(row.prompt, row.seed) for row in read_prompts(path, {})] == [("a", 1), ("", 2)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A list folder whose one list evaluates on a file of prompts as well."""
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("work", "data", "lists"):
        monkeypatch.setenv(f"CPE_{name.upper()}", str(tmp_path / name))
    (tmp_path / "data").mkdir()
    (tmp_path / "lists" / "sets").mkdir(parents=True)
    (tmp_path / "lists" / "sets" / "scenes.yaml").write_text("name: scenes\ndomain: scene\ncsv: scenes.csv\n")
    evaluation = {**NOUNS["evaluation"], "also": ["scenes"]}
    (tmp_path / "lists" / "few.yaml").write_text(yaml.safe_dump({**NOUNS, "evaluation": evaluation}))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,seed\n", "has a header and no rows"),
        ("prompt,seed\n,\n", "has a header and no rows"),
        ("prompt,seed,what\n,1,a cat\n", "every prompt is empty"),
    ],
)
def test_a_file_with_nothing_to_draw_is_refused_before_anything_runs(place, text, message):
    (place / "data" / "scenes.csv").write_text(text)
    runner = CliRunner()
    for command in ("plan", "erase"):
        done = runner.invoke(app, [command, "few"])
        assert done.exit_code == 2, (command, done.output)
        assert message in done.stderr
    shown = runner.invoke(app, ["doctor"])
    assert message in " ".join(shown.stdout.split())
    assert not (place / "work" / "store" / "gates").exists()


def test_an_empty_prompt_gives_a_picture(tmp_path):
    from cpe.models.drawing import PictureJob, generate
    from cpe.models.loading import load_pipeline

    path = tmp_path / "prompts.csv"
    path.write_text("prompt,seed\n,3\na tiger,3\n")
    each = EvaluationSet(name="few", role="kept", domain="scene", csv=str(path), rows=2)
    jobs = [
        PictureJob(row.picture_id, row.prompt, row.seed, row.guidance_scale)
        for row in each.pictures(PROFILES["embedded"])
    ]
    profile = PROFILES["embedded"].model_copy(update={"steps": 2})
    drawn = {job.prompt: picture.tobytes() for job, picture in generate(load_pipeline("embedded"), jobs, profile)}
    assert drawn[""] != drawn["a tiger"]

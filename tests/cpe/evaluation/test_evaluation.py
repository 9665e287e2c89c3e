"""What is drawn to evaluate a list: sets, their pictures and shards, and the user's own files of prompts."""

import tracemalloc
from itertools import chain
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cpe.evaluation.pictures import SHARD_PICTURES, EvaluationSet, read_prompts
from cpe.evaluation.sets import KeptSet, evaluation_sets, load_set
from cpe.lists.reading import ConceptListError, load_list
from cpe.terms.profiles import PROFILES
from cpe.terms.templates import fill
from helpers.places import LISTS

CPE = PROFILES["cpe"]


def a_set(**changes) -> EvaluationSet:
    values = {
        "name": "kept",
        "role": "kept",
        "domain": "artist",
        "concepts": ("Monet", "Hokusai"),
        "templates": ("Image in the style of {}", "Art inspired by {}"),
        "seeds": 3,
        "first_seed": 1,
    }
    return EvaluationSet(**{**values, **changes})


def published(name: str, data: Path) -> dict[str, EvaluationSet]:
    sets, _ = evaluation_sets(load_list(LISTS / f"{name}.yaml"), folders=[LISTS], data=data)
    return {each.name: each for each in sets}


def test_every_concept_is_drawn_in_every_template_with_every_seed():
    rows = list(a_set().pictures(CPE))
    asked = [(row.prompt, row.seed) for row in rows]
    assert len(asked) == len(set(asked)) == a_set().count(CPE) == 2 * 2 * 3
    assert ("Art inspired by Hokusai", 3) in asked
    assert {row.seed for row in rows} == {1, 2, 3}
    assert len({row.picture_id for row in rows}) == len(rows)
    assert len({row.prompt_id for row in rows}) == 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 6))
def test_shards_are_the_pictures_in_order_and_none_is_too_large(concepts, templates, seeds):
    each = a_set(
        concepts=tuple(f"name {n}" for n in range(concepts)),
        templates=tuple(f"{{}} {n}" for n in range(templates)),
        seeds=seeds,
    )
    shards = list(each.shards(CPE))
    assert list(chain(*shards)) == list(each.pictures(CPE))
    assert all(len(shard) == SHARD_PICTURES for shard in shards[:-1])
    assert 1 <= len(shards[-1]) <= SHARD_PICTURES


def test_the_negative_prompt_is_that_of_the_domain_and_the_profile():
    def negative(domain, profile):
        return {row.negative_prompt for row in a_set(domain=domain).pictures(PROFILES[profile])}

    assert negative("artist", "cpe") == {""}
    (words,) = negative("celebrity", "cpe")
    assert words.startswith("bad anatomy,")
    assert words.endswith(",username")
    assert negative("celebrity", "mace") == {""}


def test_a_quick_profile_draws_one_seed_and_few_rows(tmp_path):
    quick = PROFILES["quick"]
    assert [row.seed for row in a_set().pictures(quick)] == [1] * 4
    path = tmp_path / "coco.csv"
    path.write_text("prompt,seed\n" + "a cat,1\n" * 200)
    each = a_set(csv=str(path), concepts=(), templates=(), rows=200)
    assert len(list(each.pictures(quick))) == each.count(quick) == 100
    assert len(list(each.pictures(CPE))) == 200


def test_rows_of_a_file_keep_their_own_seed_and_guidance(tmp_path):
    path = tmp_path / "i2p.csv"
    path.write_text('sd_seed,prompt,sd_guidance_scale,other\n7,"a, b",9.5,x\n\n8,c,,y\n')
    columns = {"seed": "sd_seed", "guidance_scale": "sd_guidance_scale"}
    each = a_set(csv=str(path), columns=columns, concepts=(), templates=(), rows=2)
    rows = list(each.pictures(CPE))
    assert [(row.prompt, row.seed, row.guidance_scale, row.concept) for row in rows] == [
        ("a, b", 7, 9.5, None),
        ("c", 8, 7.5, None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,other\na,1\n", "needs the column 'seed', its first line has prompt, other"),
        ("", "needs the column 'prompt', its first line has none"),
        ("prompt,seed\na,-1\n", "line 2: seed must be a whole number from 0, got '-1'"),
        ("prompt,seed\na,1.5\n", "line 2: seed must be a whole number"),
        ("prompt,seed,guidance_scale\na,1,much\n", "line 2: guidance_scale must be a number from 0, got 'much'"),
        ('prompt,seed\n"a,1\n', "line 2: is no readable CSV file"),
    ],
)
def test_a_bad_file_of_prompts_is_refused_by_line(tmp_path, text, message):
    path = tmp_path / "prompts.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_prompts(path, {}))


def test_thirty_thousand_prompts_are_planned_without_holding_them(tmp_path):
    path = tmp_path / "coco.csv"
    with path.open("w") as file:
        file.write("prompt,seed\n")
        file.writelines(f"a caption of some usual length with number {n} in it,{n}\n" for n in range(30_000))
    each = a_set(csv=str(path), concepts=(), templates=(), rows=30_000)

    def peak(pictures: int) -> int:
        tracemalloc.start()
        for shard, _ in zip(each.shards(CPE), range(pictures // SHARD_PICTURES), strict=False):
            last = shard
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert last[-1].seed == pictures - 1
        return size

    assert peak(30_000) < 1.5 * peak(1_000)


def test_the_published_sets_have_the_published_sizes(tmp_path):
    celebs, artists, explicit = (published(name, tmp_path) for name in ("celebs", "artists", "explicit"))
    count = {name: each.count(CPE) for name, each in celebs.items()}
    assert count == {"erased": 1250, "kept": 2500, "artists": 2500, "characters": 64 * 25}
    assert {name: each.count(CPE) for name, each in artists.items()} == {
        "erased": 2500, "kept": 2500, "celebs": 2500, "characters": 1600,
    }  # fmt: skip
    assert "kept" not in explicit
    assert celebs["artists"].concepts == artists["kept"].concepts
    assert celebs["artists"].domain == "artist"
    assert {each.role for name, each in celebs.items() if name != "erased"} == {"kept"}


def test_a_file_that_is_not_there_leaves_a_hole_that_says_where_to_put_it(tmp_path):
    explicit = load_list(LISTS / "explicit.yaml")
    _, notes = evaluation_sets(explicit, folders=[LISTS], data=tmp_path)
    (note,) = [note for note in notes if "i2p" in note]
    assert str(tmp_path) in note
    assert "sd_seed" in note
    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\na person,3\n")
    (tmp_path / "coco.csv").write_text("prompt,evaluation_seed\na cat,5\n")
    sets, notes = evaluation_sets(explicit, folders=[LISTS], data=tmp_path)
    assert notes == ()
    roles = {each.name: (each.role, each.rows) for each in sets if each.csv}
    assert roles == {"i2p": ("erased", 1), "coco": ("kept", 1)}, "I2P should lose what is erased, COCO keep all"


def test_a_set_is_either_names_or_a_file(tmp_path):
    path = tmp_path / "some.yaml"
    good = {"name": "some", "domain": "artist", "names": ["Monet"], "templates": ["by {}"]}
    path.write_text(yaml.safe_dump(good))
    assert load_set(path) == KeptSet(**good)
    for changes, message in [
        ({"csv": "a.csv"}, "either names and templates, or a csv file"),
        ({"names": []}, "either names and templates"),
        ({"csv": "../a.csv", "names": [], "templates": []}, "line 5: csv .* must be the name of a CSV file"),
        ({"name": "kept"}, "means the list's own concepts"),
        ({"nmes": ["Monet"]}, "nmes is an unknown key; did you mean 'names'"),
        ({"columns": {"prmpt": "x"}}, "renames the column 'prmpt'"),
    ]:
        path.write_text(yaml.safe_dump({**good, **changes}, sort_keys=False))
        with pytest.raises(ConceptListError, match=message):
            load_set(path)


def test_an_unknown_set_is_refused_with_the_known_ones(tmp_path):
    text = (LISTS / "emoji.yaml").read_text().replace("  seeds: 5", "  seeds: 5\n  also: [cartoons]")
    (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(ConceptListError, match=r"no set 'cartoons'.*known: .*characters"):
        evaluation_sets(load_list(tmp_path / "list.yaml"), folders=[LISTS], data=tmp_path)


@pytest.mark.parametrize(
    ("template", "name", "prompt"),
    [
        ("a picture of a {}", "owl", "a picture of an owl"),
        ("a picture of an {}", "tiger", "a picture of a tiger"),
        ("A {} in a tree", "Owl", "An Owl in a tree"),
        ("An {} in a tree", "tiger", "A tiger in a tree"),
        ("pasta {}", "owl", "pasta owl"),
        ("{} and a dog", "owl", "owl and a dog"),
    ],
)
def test_an_article_agrees_with_the_name_and_keeps_its_case(template, name, prompt):
    assert fill(template, name) == prompt

"""Attacks by prompts: every one asks for the concept, in other words than the evaluation."""

from dataclasses import replace

import numpy as np
import pytest

from cpe.attacks.base import Attack, Sought
from cpe.attacks.table import ATTACKS, attack_of
from cpe.evaluation.pictures import EvaluationSet
from cpe.evaluation.scoring import SetSeen, score_sets
from cpe.evaluation.sets import evaluation_sets
from cpe.lists.reading import ConceptListError, parse_list
from cpe.lists.schema import ConceptList
from cpe.terms.profiles import PROFILES
from helpers.lists import LIST

NAMES = ["owl", "tiger", "Vincent van Gogh", "x"]


NOT_FOR_ALL = ("synonyms", "languages", "descriptions")  # which know some concepts alone
WRITTEN = [name for name in ATTACKS if isinstance(attack_of(name), Attack)]


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in NOT_FOR_ALL])
def test_an_attack_gives_each_name_prompts_of_its_own(name):
    attack = attack_of(name)
    assert isinstance(attack, Attack)
    assert attack.name == name
    for concept in NAMES:
        prompts = attack.prompts(Sought(concept, erased=NAMES))
        assert prompts, concept
        assert len(set(prompts)) == len(prompts)
        assert all(prompt == prompt.strip() and "{" not in prompt for prompt in prompts)
    owl, tiger = ({*attack.prompts(Sought(concept, erased=NAMES))} for concept in ("owl", "tiger"))
    assert not owl & tiger or name == "scenes"


def listed(kept=LIST["kept"], **evaluation):
    return ConceptList.model_validate({**LIST, "kept": kept, "evaluation": {**LIST["evaluation"], **evaluation}})


def test_attacks_are_sets_of_the_evaluation_drawn_with_its_seeds(tmp_path):
    plain = evaluation_sets(listed(), folders=[], data=tmp_path)[0]
    sets = evaluation_sets(listed(attacks=["plurals", "scenes", "plurals"]), folders=[], data=tmp_path)[0]
    assert sets[:2] == plain
    assert [(each.name, each.role, each.domain) for each in sets[2:]] == [
        ("attack-plurals", "erased", "noun"), ("attack-scenes", "erased", "noun"),
    ]  # fmt: skip
    rows = list(sets[2].pictures(PROFILES["embedded"]))
    assert len(rows) == sets[2].count(PROFILES["embedded"]) == 2 * 4 * 2
    assert [(row.concept, row.prompt, row.seed) for row in rows[:3]] == [
        ("rose", "a picture of roses", 0), ("rose", "a picture of roses", 1), ("rose", "a picture of two roses", 0),
    ]  # fmt: skip
    assert len({row.prompt_id for row in rows}) == 8


def test_a_list_without_attacks_is_what_it_was(tmp_path):
    """Neither its own hash nor what its scores are known by has changed with them."""
    assert "attacks" not in listed().model_dump()["evaluation"]
    assert listed(attacks=["longer"]).content_hash != listed().content_hash
    assert "written" not in EvaluationSet(name="kept", role="kept", domain="noun").model_dump()


def test_an_attacks_pictures_never_count_as_the_concepts_own():
    """A row of scores is known by metric, phase, role and group: concept by concept only the evaluation's own count."""
    plain = seen("erased", ["rose", "pizza"], found=["", "pizza"])
    attack = seen("attack-plurals", ["rose", "pizza"], found=["rose", "pizza"])
    scored = list(score_sets([plain, attack], features="embedded", logit_scale=None))
    found = {tuple(each[:4]): each.score.value for each in scored}
    assert len(found) == len(scored)
    assert found["noun_accuracy", "after", "erased", "rose"] == 0.0
    assert found["noun_accuracy", "after", "erased", "set attack-plurals"] == 1.0


def test_an_attack_that_learns_is_tried_on_kept_concepts_too(tmp_path):
    both = listed(
        kept=["cat", "castle", "owl", "fox"], attacks=["inversion", "plurals"], budget={"steps": 3, "starts": 2}
    )
    sets = {each.name: each for each in evaluation_sets(both, folders=[], data=tmp_path)[0]}
    asked, control = sets["attack-inversion"], sets["control-inversion"]
    assert (control.role, control.concepts) == ("control", ("cat", "castle", "owl"))
    same = {"name": "", "role": "erased", "concepts": ()}
    assert control.model_copy(update=same) == asked.model_copy(update=same)
    assert "control-plurals" not in sets
    alone = evaluation_sets(listed(kept=[], attacks=["inversion"]), folders=[], data=tmp_path)[0]
    assert [each.name for each in alone] == ["erased", "attack-inversion"]


def test_controls_count_neither_as_kept_nor_one_by_one():
    kept = replace(seen("kept", ["cat", "owl"], found=["cat", "owl"]), role="kept")
    control = replace(seen("control-inversion", ["cat", "owl"], found=["", "owl"]), role="control")
    scored = list(score_sets([kept, control], features="embedded", logit_scale=None))
    found = {tuple(each[:4]): each.score.value for each in scored}
    assert len(found) == len(scored)
    assert found["noun_accuracy", "after", "kept", "cat"] == 1.0
    assert found["noun_accuracy", "after", "control", "set control-inversion"] == 0.5
    assert [group for _, _, role, group in found if role == "control"] == ["set control-inversion"] * 4


def seen(name, concepts, *, found):
    values = {"noun": np.array(found), "style": np.array(["noto"] * len(found))}
    return SetSeen(
        name=name, role="erased", domain="noun", concepts=np.array(concepts), named=np.array(["noto"] * len(found)),
        prompt_ids=np.arange(len(found)), seen={"before": values, "after": values},
    )  # fmt: skip


def test_unknown_attacks_and_those_that_ask_for_nothing_are_refused(tmp_path):
    import yaml

    text = yaml.safe_dump({**LIST, "evaluation": {"as_published": True, "templates": ["a {}"], "attacks": ["plural"]}})
    with pytest.raises(
        ConceptListError, match=r"evaluation\.attacks\[0\] 'plural' names no attack; did you mean 'plurals'"
    ):
        parse_list(text)
    alone = ConceptList.model_validate(
        {
            **LIST,
            "targets": ["rose"],
            "evaluation": {"as_published": True, "templates": ["a {}"], "attacks": ["scenes"]},
        }
    )
    with pytest.raises(ConceptListError, match="'scenes' asks for none of the list's targets; remove it"):
        evaluation_sets(alone, folders=[], data=tmp_path)

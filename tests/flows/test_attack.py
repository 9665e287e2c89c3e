"""Attacks that learn their texts, through the flow and the command line: stored, shared, resumed, told."""

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from cpe.attacks.base import Search
from cpe.attacks.table import ATTACKS, attack_of
from cpe.lists.reading import ConceptListError, parse_list
from flows.attack import attack
from flows.cli.app import app
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.faults_servers import on_prefect
from helpers.here import here, places_in
from helpers.lists import LIST
from tasks.attacks.figures import attacked, chosen_attacks
from tasks.attacks.search import hunts, search_texts
from tasks.desk.clean import clean_store, load_plan
from tasks.draw import shards
from tasks.prepare import prepare_concepts
from tasks.share import store_plan
from tasks.train import assemble_bundle, plan_training, train_gates

pytestmark = pytest.mark.slow
RUNNER = CliRunner()
LISTED = {
    **LIST,
    "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 60}},
    "evaluation": {
        "as_published": True,
        "templates": ["a picture of a {}"],
        "seeds": 1,
        "attacks": ["inversion", "ring-a-bell-soft", "mma-text"],
        "budget": {"steps": 2, "starts": 2},
    },
    "bars": {"attack_inversion_at_most": 1.0, "attack_ring-a-bell-soft_at_most": 1.0, "least_pictures": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    work = tmp_path_factory.mktemp("work")
    patch.setenv("CPE_WORK", str(work))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        patch.delenv(name, raising=False)
    path = work / "few.yaml"
    path.write_text(yaml.safe_dump(LISTED))
    with on_prefect(tmp_path_factory):
        yield path, erase_and_evaluate(str(path))
    patch.undo()


def test_the_flow_searches_draws_both_ways_and_a_bar_reads_what_came_of_it(place):
    path, results = place
    labels = {figure["label"]: figure for figure in results["figures"]}
    for name in ("inversion", "ring-a-bell-soft", "mma-text"):
        assert labels[f"Accuracy on set attack-{name}"]["count"] == 2 * 2, "targets by starts"
        assert labels[f"Accuracy on set control-{name}"]["count"] == 2 * 2, "kept concepts by starts"
    assert not [label for label in labels if "control-" in label and not label.startswith("Accuracy")]
    bars = [bar["name"] for bar in results["bars"]]
    assert "accuracy on erased concepts under the attack 'inversion'" in bars
    places = here()
    plan = prepare_concepts(places, str(path))
    found = list(hunts(plan))
    assert len({each.address for each in found}) == 3 * (2 + 2) * 2
    assert {each.aim.concept for each in found} == {"rose", "pizza", "cat", "castle"}
    for each in found:
        manifest = json.loads((places.fetched(each.key) / "manifest.json").read_text())
        assert manifest["bundle"] == (plan.bundle if each.attack == "inversion" else None)
        assert len(manifest["losses"]) == (0 if each.attack == "ring-a-bell-soft" else 2)
        assert ("words" in manifest) == (each.attack == "mma-text"), "a prompt that anybody can try"


def test_what_was_learned_is_known_by_the_bundle_the_concept_the_start_and_the_budget(place):
    path, _ = place
    plan = prepare_concepts(here(), str(path))
    other = plan.model_copy(update={"gates": plan.gates[:1]})
    learned = [{h.address for h in hunts(each) if h.attack == "inversion"} for each in (plan, other)]
    assert not learned[0] & learned[1]
    drawn = {shard.of.name: shard.address for shard in shards(plan, None)}
    drawn_for_other = {shard.of.name: shard.address for shard in shards(other, None)}
    assert drawn["erased"] == drawn_for_other["erased"], "the untouched model's pictures are everybody's"
    assert drawn["attack-inversion"] != drawn_for_other["attack-inversion"], "even untouched: its text is another"
    sets = [each.model_copy(update={"steps": 3}) for each in plan.sets]
    longer = plan.model_copy(update={"sets": tuple(sets)})
    inversions = [{h.address for h in hunts(p) if h.attack == "inversion"} for p in (plan, longer)]
    assert not inversions[0] & inversions[1]


def test_a_search_cut_off_is_made_again_with_the_same_end_and_two_workers_make_what_one_makes(
    tmp_path, monkeypatch, place
):
    path, _ = place
    texts = []
    for name in ("whole", "cut"):
        places = places_in(tmp_path / name)
        plan = prepare_concepts(places, str(path))
        for group in plan_training(places, plan):
            train_gates(places, plan, group)
        assemble_bundle(places, plan)
        if name == "cut":
            calls, real = [], attack_of("inversion").search

            def cut(victim, aim, calls=calls, real=real):
                calls.append(aim)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                return real(victim, aim)

            with monkeypatch.context() as patch:
                patch.setattr("cpe.attacks.learned.inversion.INVERSION", Search("inversion", "", "white box", 60, cut))
                with pytest.raises(KeyboardInterrupt):
                    search_texts(places, plan)
            assert sum(places.store().has(each.key) for each in hunts(plan)) == 1
            for part in (1, 0):
                search_texts(places, plan, part, 2)
        else:
            search_texts(places, plan)
        texts.append([(places.fetched(each.key) / "found.safetensors").read_bytes() for each in hunts(plan)])
    assert texts[0] == texts[1]


def test_attacking_again_makes_nothing_and_says_the_same(place):
    path, _ = place
    places = here()
    first = attack(str(path), ["inversion", "plurals"], steps=2, starts=1)
    keys = set(places.store().keys("attacks")) | set(places.store().keys("pictures"))
    assert attack(str(path), ["inversion", "plurals"], steps=2, starts=1) == first
    assert set(places.store().keys("attacks")) | set(places.store().keys("pictures")) == keys
    assert first["attacks"]["inversion"]["count"] == 2
    assert first["attacks"]["inversion"]["access"] == "white box"
    assert first["attacks"]["plurals"]["access"] == "prompts"
    assert set(first["attacks"]) == {"inversion", "plurals"}
    kept = first["attacks"]["inversion"]["controls"]["kept"]
    assert set(kept) == {"rate", "low", "high", "count", "control"}
    assert kept["count"] == 2
    assert first["attacks"]["plurals"]["controls"] == {
        "untouched": first["attacks"]["plurals"]["control"],
        "kept": None,
    }


def test_the_command_line_tells_and_refuses_in_one_line(place):
    path, _ = place
    told = RUNNER.invoke(app, ["attack", str(path), "--attack", "ring-a-bell-soft", "--starts", "2"])
    assert told.exit_code == 0, told.output
    assert re.search(r"ring-a-bell-soft.*text encoder.*\d %", told.output)
    for options, words in (
        (["--attack", "inversio"], "did you mean 'inversion'?"),
        (["--steps", "0"], "budget.steps must be greater than or equal to 1, got 0"),
        (["--starts", "0"], "budget.starts must be greater than or equal to 1, got 0"),
    ):
        refused = RUNNER.invoke(app, ["attack", str(path), *options])
        assert refused.exit_code == 2
        assert words in refused.output
        assert refused.output.strip().count("\n") == 0


def test_a_plan_of_attacks_alone_can_be_read_by_other_workers_and_by_cleaning(place):
    path, _ = place
    plan = attacked(here(), prepare_concepts(here(), str(path)), ["plurals"])
    assert plan.concepts.bars.bounds == {}, "the list's bars are about attacks that are not made"
    assert load_plan(here(), store_plan(here(), plan)) == plan
    assert clean_store(here()).kept


def test_a_text_that_needs_no_erased_model_is_everybodys(place):
    path, _ = place
    plan = prepare_concepts(here(), str(path))
    other = plan.model_copy(update={"gates": plan.gates[:1]})
    soft = [{h.address for h in hunts(each) if h.attack == "ring-a-bell-soft"} for each in (plan, other)]
    assert soft[0] == soft[1]
    many = attacked(here(), plan, ["ring-a-bell-soft"], starts=9)
    assert many.sets[0].starts == 4, "there are no more different ones"


def test_a_list_that_names_no_attack_is_attacked_by_all_and_one_that_does_by_its_own():
    def chosen(**evaluation):
        listed = parse_list(yaml.safe_dump({**LIST, "evaluation": {"templates": ["a {}"], **evaluation}}))
        return [each.name for each in chosen_attacks(listed, None).attacks]

    assert chosen() == list(ATTACKS)
    assert chosen(attacks=["plurals"]) == ["plurals"]


def test_an_attack_by_a_file_that_is_not_there_is_no_empty_table(place, tmp_path):
    path, _ = place
    listed = yaml.safe_load(path.read_text())
    listed["evaluation"]["attacks"] = [{"name": "mine", "csv": "mine.csv", "concept": "rose"}]
    listed["bars"] = {}
    other = tmp_path / "few.yaml"
    other.write_text(yaml.safe_dump(listed))
    with pytest.raises(ConceptListError, match=r"put mine\.csv"):
        attacked(here(), prepare_concepts(here(), str(other)), ["mine"])

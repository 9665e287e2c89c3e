"""The list of drawn people: gates that no other target or kept name changes, names that are checked, who is seen."""

import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from cpe.embedded.observers import EmbeddedPeople
from cpe.embedded.people import people
from cpe.lists.reading import ConceptListError, load_list, parse_list
from cpe.observers.base import Missing
from helpers.here import places_in
from helpers.places import LISTS
from scripts.embedded_parts import PARTS
from tasks.prepare import check_list, prepare_concepts

KEPT = PARTS / "lists"  # until the model that knows people is shipped
PEOPLE = yaml.safe_load((KEPT / "people.yaml").read_text())


@pytest.fixture
def written(tmp_path):
    def write(**changes):
        path = tmp_path / "lists" / "people.yaml"
        shutil.copytree(KEPT / "sets", path.parent / "sets", dirs_exist_ok=True)
        path.write_text(yaml.safe_dump({**PEOPLE, **changes}))
        return str(path)

    return write


@pytest.fixture
def places(tmp_path):
    return places_in(tmp_path / "work")


def test_it_is_the_published_experiment_at_its_size():
    ours, published = load_list(KEPT / "people.yaml"), load_list(LISTS / "celebs.yaml")
    assert (len(ours.targets), len(ours.kept)) == (len(published.targets), len(published.kept)) == (50, 100)
    assert ours.evaluation.templates == published.evaluation.templates
    assert (ours.evaluation.seeds, ours.evaluation.first_seed) == (
        published.evaluation.seeds,
        published.evaluation.first_seed,
    )
    assert {*(target.name for target in ours.targets), *ours.kept} == set(people())


def test_the_sweep_erases_those_of_the_list_first_and_its_gates_are_the_same(places):
    ours = prepare_concepts(places, str(KEPT / "people.yaml"))
    sweep = prepare_concepts(places, str(KEPT / "people-sweep.yaml"))
    assert [gate.address for gate in sweep.gates[:50]] == [gate.address for gate in ours.gates]
    assert not {gate.concept for gate in sweep.gates} & set(sweep.concepts.kept)


def test_a_name_more_or_less_changes_no_other_gate(places, written):
    before = {gate.concept: gate.address for gate in prepare_concepts(places, written()).gates}
    more = prepare_concepts(places, written(targets=[*PEOPLE["targets"], PEOPLE["kept"][0]], kept=PEOPLE["kept"][1:]))
    after = {gate.concept: gate.address for gate in more.gates}
    assert after.keys() - before.keys() == {PEOPLE["kept"][0]}
    assert before.items() <= after.items()
    less = prepare_concepts(
        places, written(targets=PEOPLE["targets"][1:], kept=[*PEOPLE["kept"], PEOPLE["targets"][0]])
    )
    assert {gate.concept: gate.address for gate in less.gates}.items() <= before.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["Harrison Ford"]}, "does not know the celebrity 'Harrison Ford'"),
        ({"kept": ["Harrison Ford"]}, "does not know the celebrity 'Harrison Ford'"),
        ({"targets": [PEOPLE["targets"][0]] * 2}, PEOPLE["targets"][0]),
        ({"targets": [PEOPLE["targets"][0], PEOPLE["targets"][0].upper()]}, PEOPLE["targets"][0]),
        ({"targets": [{"name": PEOPLE["targets"][0], "aliases": [PEOPLE["targets"][1]]}, PEOPLE["targets"][1]]},
         PEOPLE["targets"][1]),
        ({"targets": [{"name": PEOPLE["targets"][0], "aliases": [PEOPLE["kept"][0]]}]}, PEOPLE["kept"][0]),
    ],
    ids=["unknown target", "unknown kept", "twice", "twice, in capitals", "alias of a target", "alias of a kept one"],
)  # fmt: skip
def test_names_that_nobody_bears_or_several_do_are_refused(places, written, changes, message):
    with pytest.raises(ConceptListError, match=message):
        check_list(places, written(**changes))


def test_names_of_the_published_list_need_no_drawn_people():
    assert parse_list(yaml.safe_dump({**yaml.safe_load((LISTS / "celebs.yaml").read_text())})).profile == "cpe"


def test_who_is_in_a_picture_is_told_by_the_classifier_of_people_where_there_is_one(tmp_path):
    with pytest.raises(Missing, match="draws no people yet"):
        EmbeddedPeople(tmp_path)
    observer = EmbeddedPeople(PARTS / "identity")
    assert observer.labels == people()
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("white", "black")]
    seen = observer.look(pictures, ["", ""])
    assert seen["faces"].tolist() == [int(name != "") for name in seen["identity"]]
    assert np.all((seen["identity_score"] >= 0) & (seen["identity_score"] <= 1))
    assert observer.look(pictures[1:], [""])["identity"][0] == seen["identity"][1], "whatever it is shown with"

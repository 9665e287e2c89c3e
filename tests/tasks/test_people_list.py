"""The list of drawn people: gates that no other target or kept name changes, names that are checked, who is seen."""

import numpy as np
import pytest
import yaml

from cpe.embedded.observers import EmbeddedPeople
from cpe.embedded.people import people
from cpe.lists.reading import ConceptListError, load_list, parse_list
from cpe.metrics.people import celebrity_scores
from cpe.models.drawing import PictureJob, generate
from cpe.models.loading import load_pipeline
from cpe.terms.profiles import PROFILES
from helpers.here import places_in
from helpers.places import LISTS
from tasks.prepare import check_list, prepare_concepts

PEOPLE = yaml.safe_load((LISTS / "people.yaml").read_text())


@pytest.fixture
def written(tmp_path):
    def write(**changes):
        path = tmp_path / "lists" / "people.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({**PEOPLE, **changes}))
        return str(path)

    return write


@pytest.fixture
def places(tmp_path):
    return places_in(tmp_path / "work")


def test_it_is_the_published_experiment_at_its_size():
    ours, published = load_list(LISTS / "people.yaml"), load_list(LISTS / "celebs.yaml")
    assert (len(ours.targets), len(ours.kept)) == (len(published.targets), len(published.kept)) == (50, 100)
    assert ours.evaluation.templates == published.evaluation.templates
    assert (ours.evaluation.seeds, ours.evaluation.first_seed) == (
        published.evaluation.seeds,
        published.evaluation.first_seed,
    )
    assert {*(target.name for target in ours.targets), *ours.kept} == set(people())


def test_the_sweep_erases_those_of_the_list_first_and_its_gates_are_the_same(places):
    ours = prepare_concepts(places, str(LISTS / "people.yaml"))
    sweep = prepare_concepts(places, str(LISTS / "people-sweep.yaml"))
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


def test_who_is_drawn_is_seen_and_nobody_on_a_noun():
    pipe, profile = load_pipeline("embedded", device="cpu"), PROFILES["embedded"]
    names = people()[::5]
    asked = [*(f"a portrait of {name}" for name in names), "a tiger", "an umbrella", "a castle"]
    jobs = [PictureJob(str(row), text, row) for row, text in enumerate(asked)]
    seen = EmbeddedPeople().look([picture for _, picture in generate(pipe, jobs, profile)], asked)
    assert seen["faces"].tolist() == [1] * len(names) + [0] * 3
    assert seen["identity"][-3:].tolist() == ["", "", ""]
    accuracy, faceless = celebrity_scores(seen["identity"][:-3], seen["faces"][:-3], list(names))
    assert accuracy is not None
    assert accuracy.value >= 0.9
    assert faceless.value == 0
    sure = seen["identity_score"]
    assert np.all((sure >= 0) & (sure <= 1))
    alone = EmbeddedPeople().look([picture for _, picture in generate(pipe, jobs[:1], profile)], asked[:1])
    assert alone["identity"][0] == seen["identity"][0], "a picture's values do not depend on the others"

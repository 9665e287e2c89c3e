"""What lists say is what is served: under any order of changes, runs, kills and people's decisions.

Registry, store and tasks are the real ones; what training and drawing would have made is written by hand.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from typer.testing import CliRunner

from artifacts.registry.registry import Registry, RegistryError
from artifacts.registry.versions import ModelVersion
from cpe.lists.reading import load_list
from flows.cli.app import app
from helpers.here import here
from helpers.lists import LIST
from helpers.standing import plan_of, store_scores
from tasks.desk.versions import lift, promote_by_hand, roll_back
from tasks.plan import Plan
from tasks.register import decide, register_bundle, save_results
from tasks.watch.events import changed_lists
from tasks.watch.standing import standing_of, standings

RUNNER = CliRunner()
# Four contents of one list: two with the same gates, and one that misses its bars.
CONTENTS = {
    "a": {"targets": ["rose", "pizza"]},
    "a, other seeds": {
        "targets": ["rose", "pizza"],
        "evaluation": {"as_published": True, "templates": ["a {}"], "seeds": 3},
    },
    "b": {"targets": ["rose"]},
    "bad": {"targets": ["rose", "snake"]},
}
WRITES = (
    "create_run", "log_batch", "log_artifacts", "set_terminated", "create_registered_model", "create_model_version",
    "set_registered_model_alias", "set_model_version_tag",
)  # fmt: skip


class KilledError(BaseException):
    """The process ends here."""


def content(name: str, which: str) -> str:
    evaluation = {"as_published": True, "templates": ["a picture of a {}"], "seeds": 2}
    return yaml.safe_dump({**LIST, "name": name, "evaluation": evaluation, **CONTENTS[which]})


def store_bundle(plan: Plan) -> None:
    places = here()
    with places.scratch() as folder:
        (folder / "manifest.json").write_text(json.dumps(plan.bundle_manifest))
        places.store().put(f"bundles/{plan.bundle}", folder)


def run(path: Path) -> bool:
    """Does what a run does once gates are trained and pictures measured; returns whether it made a champion."""
    plan = plan_of(path)
    erased = {gate.concept: 0.9 if gate.concept == "snake" else 0.0 for gate in plan.gates}
    store_bundle(plan)
    scores = store_scores(plan, erased, {"cat": 1.0, "castle": 1.0})
    registered = register_bundle(here(), plan, plan.bundle, scores, {})
    decision = decide(here(), plan, registered, scores)
    save_results(here(), plan, registered, decision, scores, "report.html", {}, [])
    return decision.champion


@pytest.fixture(scope="module", autouse=True)
def work(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("standing")
    patch.setenv("CPE_WORK", str(folder))
    patch.setenv("CPE_LISTS", str(folder / "lists"))
    (folder / "lists").mkdir()
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        patch.delenv(name, raising=False)
    yield folder
    patch.undo()


@pytest.fixture
def listed(work: Path, request: pytest.FixtureRequest) -> Path:
    """A list of this test's own, content "a"."""
    path = work / "lists" / f"{request.node.name.replace('_', '-')[:60].rstrip('-')}.yaml"
    path.write_text(content(path.stem, "a"))
    return path


def change(path: Path, which: str) -> None:
    path.write_text(content(path.stem, which))


def tick(path: Path) -> bool:
    """Looks at the list as the watcher does, and runs it if that is told; returns whether it was."""
    found = changed_lists(here(), [path.stem])
    told = any(each.problem is None and each.waits is None for each in found)
    if told:
        run(path)
    return told


def champion_of(path: Path) -> ModelVersion | None:
    return here().registry().champion(f"cpe-{path.stem}")


def stands(path: Path) -> str:
    return standings(here(), [str(path)])[0].state


def test_a_list_changed_back_is_served_again_without_a_new_version(listed):
    for which, version in (("a", 1), ("b", 2), ("a", 1), ("b", 2), ("a", 1)):
        change(listed, which)
        assert tick(listed), "the champion is not what the list says"
        champion = champion_of(listed)
        assert (champion.version, champion.tags["list_hash"]) == (version, load_list(listed).content_hash)
        assert not tick(listed), "nothing is left to do"


def test_a_version_whose_promotion_was_never_reached_is_decided_at_the_next_tick(listed, monkeypatch):
    monkeypatch.setattr("tasks.register.verdict", None)  # the run ends in an error between registering and promoting
    with pytest.raises(TypeError):
        run(listed)
    monkeypatch.undo()
    assert champion_of(listed) is None
    assert tick(listed)
    champion = champion_of(listed)
    assert champion.version == 1
    assert champion.tags["fell_short"] == "nothing"
    assert champion.tags["finished"] == "yes"


def test_a_rollback_holds_its_gates_back_through_other_edits_until_it_is_lifted(listed):
    change(listed, "b")
    tick(listed)
    change(listed, "a")
    tick(listed)
    assert roll_back(here(), f"cpe-{listed.stem}", "complaints about foxes") == (1, 2)
    assert not tick(listed)
    (told,) = changed_lists(here(), [listed.stem])
    assert "rolled back: complaints about foxes" in told.waits
    change(listed, "a, other seeds")
    assert tick(listed), "the edit is measured and registered"
    assert champion_of(listed).version == 1, "but its gates are those that were rolled back"
    shown = RUNNER.invoke(app, ["status", listed.stem])
    assert shown.exit_code == 1
    assert "held back" in shown.stdout
    assert "complaints about foxes" in RUNNER.invoke(app, ["models"]).stdout
    results = RUNNER.invoke(app, ["results", "--list", listed.stem]).stdout
    assert "its gates were rolled back with version 2 (complaints about foxes" in " ".join(results.split())
    lifted = RUNNER.invoke(app, ["models", "lift", f"cpe-{listed.stem}", "--reason", "the foxes were somebody else's"])
    assert lifted.exit_code == 0, lifted.output
    assert tick(listed)
    assert champion_of(listed).tags["list_hash"] == load_list(listed).content_hash
    assert RUNNER.invoke(app, ["status", listed.stem]).exit_code == 0
    again = RUNNER.invoke(app, ["models", "lift", f"cpe-{listed.stem}", "--reason", "x"])
    assert again.exit_code == 2
    assert "no version that is held back" in again.stderr


def test_other_gates_are_not_held_back_by_a_rollback(listed):
    for which in ("b", "a"):
        change(listed, which)
        tick(listed)
    roll_back(here(), f"cpe-{listed.stem}", "complaints")
    change(listed, "b")
    assert not tick(listed), "the champion is what the list says again"
    change(listed, "bad")
    assert tick(listed)
    assert stands(listed) == "fell short"
    assert not tick(listed), "a version that fell short is judged once"


def test_a_rollback_cut_off_half_way_never_lets_the_champion_return(listed, monkeypatch):
    for which in ("b", "a"):
        change(listed, which)
        tick(listed)

    def killed(*_: object) -> None:
        raise KilledError

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", killed)
    with pytest.raises(KilledError):
        roll_back(here(), f"cpe-{listed.stem}", "complaints")
    monkeypatch.undo()
    assert champion_of(listed).version == 2
    assert roll_back(here(), f"cpe-{listed.stem}", "complaints") == (1, 2)
    assert not tick(listed)


def test_a_version_promoted_by_hand_in_place_of_what_the_list_says_stays(listed):
    for which in ("b", "a"):
        change(listed, which)
        tick(listed)
    promote_by_hand(here(), f"cpe-{listed.stem}/1", "quieter")
    assert not tick(listed)
    assert champion_of(listed).version == 1
    promote_by_hand(here(), f"cpe-{listed.stem}/2", "no, it was not")
    assert stands(listed) == "current"
    change(listed, "b")
    assert tick(listed), "promoting what the list says held nothing back"
    assert champion_of(listed).version == 1


def test_a_version_that_fell_short_is_judged_again_when_the_champion_is_another(listed):
    for which in ("b", "a", "bad"):
        change(listed, which)
        tick(listed)
    assert stands(listed) == "fell short"
    roll_back(here(), f"cpe-{listed.stem}", "complaints")
    assert stands(listed) == "to do"
    tick(listed)
    assert stands(listed) == "fell short"
    assert not tick(listed)


def test_a_champion_whose_files_are_gone_is_made_anew(listed, work):
    tick(listed)
    champion = champion_of(listed)
    (folder,) = (work / "mlartifacts").rglob(f"{champion.run_id}/artifacts/bundle")
    shutil.rmtree(folder)
    assert stands(listed) == "to do"
    assert tick(listed)
    assert champion_of(listed).version == 2
    assert stands(listed) == "current"


def test_a_list_that_lost_a_name_is_not_refused_because_its_mean_moved(listed):
    """Without rose, which was erased wholly, pizza's 20 % are all that is left: more than the mean before."""
    plan = plan_of(listed)
    store_bundle(plan)
    scores = store_scores(plan, {"rose": 0.0, "pizza": 0.2}, {"cat": 1.0, "castle": 1.0})
    assert decide(here(), plan, register_bundle(here(), plan, plan.bundle, scores, {}), scores).champion
    listed.write_text(yaml.safe_dump({**LIST, "name": listed.stem, "targets": ["pizza"]}))
    less = plan_of(listed)
    store_bundle(less)
    scores = store_scores(less, {"pizza": 0.2}, {"cat": 1.0, "castle": 1.0})
    decision = decide(here(), less, register_bundle(here(), less, less.bundle, scores, {}), scores)
    assert decision.champion, decision.against
    reason = champion_of(listed).tags["promoted_reason"]
    assert "on the concepts that both lists hold: 1 of 1 erased and 2 of 2 kept" in reason


def test_what_got_worse_on_the_shared_concepts_is_refused_though_the_mean_is_better(listed):
    listed.write_text(yaml.safe_dump({**LIST, "name": listed.stem, "targets": ["pizza", "snake"]}))
    plan = plan_of(listed)
    store_bundle(plan)
    scores = store_scores(plan, {"pizza": 0.0, "snake": 0.24}, {"cat": 1.0, "castle": 1.0})
    assert decide(here(), plan, register_bundle(here(), plan, plan.bundle, scores, {}), scores).champion
    listed.write_text(yaml.safe_dump({**LIST, "name": listed.stem, "targets": ["pizza", "rose"]}))
    other = plan_of(listed)
    store_bundle(other)
    scores = store_scores(other, {"pizza": 0.1, "rose": 0.0}, {"cat": 1.0, "castle": 1.0})
    decision = decide(here(), other, register_bundle(here(), other, other.bundle, scores, {}), scores)
    assert not decision.champion
    assert "accuracy on erased concepts 10.0 %, more than 2.0 % worse" in decision.against[0]


def test_the_champion_shown_is_the_one_of_now_and_not_of_when_the_run_ended(listed):
    for which in ("b", "a"):
        change(listed, which)
        tick(listed)

    def shown() -> tuple[str, bool]:
        text = RUNNER.invoke(app, ["results", "--list", listed.stem]).stdout
        data = json.loads(RUNNER.invoke(app, ["results", "--list", listed.stem, "--json"]).stdout)
        return text.splitlines()[-1], data["champion"]

    assert shown() == (f"model   cpe-{listed.stem} version 2 (champion)", True)
    roll_back(here(), f"cpe-{listed.stem}", "complaints")
    assert shown() == (
        f"model   cpe-{listed.stem} version 2 (not champion: another version has been chosen since)",
        False,
    )


def test_a_run_of_another_profile_is_a_look_and_never_champion(listed):
    tick(listed)
    plan = plan_of(listed)
    quick = plan.model_copy(update={"concepts": plan.concepts.model_copy(update={"profile": "quick"})})
    scores = store_scores(quick, {"rose": 0.0, "pizza": 0.0}, {"cat": 1.0, "castle": 1.0})
    decision = decide(here(), quick, register_bundle(here(), quick, quick.bundle, scores, {}), scores)
    assert not decision.champion
    assert "a look, never a champion" in decision.against[0]
    assert champion_of(listed).version == 1


def test_a_run_that_ends_after_its_list_was_changed_promotes_nothing(listed):
    plan = plan_of(listed)
    store_bundle(plan)
    scores = store_scores(plan, {"rose": 0.0, "pizza": 0.0}, {"cat": 1.0, "castle": 1.0})
    registered = register_bundle(here(), plan, plan.bundle, scores, {})
    change(listed, "b")
    decision = decide(here(), plan, registered, scores)
    assert not decision.champion
    assert "list was changed while it was made" in decision.against[0]
    assert tick(listed)
    change(listed, "a")
    assert tick(listed), "what was put off is decided when the list is that again"
    assert champion_of(listed).version == 1


def test_a_broken_list_is_told_beside_the_others(listed, work):
    (work / "lists" / "torn.yaml").write_text("name: torn\ntargets: [")
    tick(listed)
    shown = RUNNER.invoke(app, ["status", "--json", listed.stem, "torn"])
    assert shown.exit_code == 1
    states = {each["name"]: each["state"] for each in json.loads(shown.stdout)}
    assert states == {listed.stem: "current", "torn": "unreadable"}


def test_a_registry_of_before_keeps_its_rollbacks_and_its_champions():
    """Versions of earlier releases carry no tags of decisions: what they say is believed, nothing comes back."""
    now = datetime.now(UTC)
    old = ModelVersion("cpe-old", 1, ("champion",), {"list_hash": "a", "bundle": "x"}, now, "r")
    rolled = {"list_hash": "b", "bundle": "y", "promoted_at": "2026-01-01", "rolled_back_at": "2026-01-02"}
    back = ModelVersion("cpe-old", 2, ("previous",), rolled, now, "r")
    assert standing_of("old", "a", [back, old]).state == "current"
    assert standing_of("old", "b", [back, old]).state == "held back"
    again = replace(back, tags={**rolled, "promoted_at": "2026-01-03"})
    assert standing_of("old", "b", [again, old]).state == "to do"


class Served(RuleBasedStateMachine):
    """A list, its registry and its people, in any order; kept beside it: which gates people hold back."""

    examples = 0

    @initialize()
    def begin(self) -> None:
        type(self).examples += 1
        self.path = Path(here().lists()) / f"order-{self.examples}.yaml"
        self.model = f"cpe-{self.path.stem}"
        self.held: set[str] = set()
        self.which = "a"
        change(self.path, "a")

    @property
    def registry(self) -> Registry:
        return here().registry()

    @rule(which=st.sampled_from(sorted(CONTENTS)))
    def change_the_list(self, which: str) -> None:
        self.which = which
        change(self.path, which)

    @rule(after=st.integers(0, 12))
    def a_run_is_killed(self, after: int) -> None:
        left = after
        with pytest.MonkeyPatch.context() as patch:
            for name in WRITES:
                real = getattr(mlflow.MlflowClient, name)

                def counted(*given, _real=real, **options):
                    nonlocal left
                    left -= 1
                    if left < 0:
                        raise KilledError
                    return _real(*given, **options)

                patch.setattr(mlflow.MlflowClient, name, counted)
            with suppress(KilledError):
                run(self.path)

    @rule()
    def an_event_is_lost(self) -> None:
        changed_lists(here(), [self.path.stem])

    @rule(cut=st.booleans())
    def a_person_rolls_back(self, cut: bool) -> None:
        champion = self.registry.champion(self.model)
        try:
            roll_back(here(), self.model, "complaints")
        except RegistryError:
            return
        self.held -= {self.registry.champion(self.model).tags["bundle"]}
        self.held |= {champion.tags["bundle"]}

    @rule()
    def a_person_lifts(self) -> None:
        if self.held:
            lift(here(), self.model, "forgiven")
        self.held = set()

    @rule(which=st.integers(0, 5))
    def a_person_promotes(self, which: int) -> None:
        versions = self.registry.versions(self.model)
        if not versions:
            return
        chosen, champion = versions[which % len(versions)], self.registry.champion(self.model)
        promote_by_hand(here(), f"{self.model}/{chosen.version}", "as I say")
        self.held -= {chosen.tags["bundle"]}
        now = load_list(self.path).content_hash
        if champion is not None and champion.tags["list_hash"] == now != chosen.tags["list_hash"]:
            self.held |= {champion.tags["bundle"]}

    @rule()
    def a_tick_and_its_run(self) -> None:
        before = self.registry.champion(self.model)
        tick(self.path)
        plan, champion = plan_of(self.path), self.registry.champion(self.model)
        is_the_list = champion is not None and champion.tags["list_hash"] == plan.concepts.content_hash
        if is_the_list:
            assert champion.tags["finished"] == "yes"
        elif plan.bundle in self.held or self.which == "bad":
            assert champion == before or champion.version == before.version, "only a person moves it now"
        else:
            raise AssertionError(f"the champion is not the list: {standings(here(), [str(self.path)])}")
        if plan.bundle not in self.held and self.which != "bad":
            assert not tick(self.path), "and then nothing is left to do"

    @invariant()
    def one_result_is_one_version(self) -> None:
        if not hasattr(self, "model"):
            return
        results = [
            tuple(each.tags[key] for key in ("bundle", "scores", "list_hash"))
            for each in self.registry.versions(self.model)
        ]
        assert len(results) == len(set(results))


Served.TestCase.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
TestServed = Served.TestCase

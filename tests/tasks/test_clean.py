"""What no version, list or running job needs leaves the store, and nothing else does: on a disk and in S3."""

import json
import os
import time
import uuid
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from artifacts.stores.store import Store
from cpe.lists.reading import ConceptListError
from flows.cli.app import app
from helpers.here import here
from helpers.lists import LIST
from helpers.standing import plan_of, store_scores
from tasks.desk.clean import clean_store
from tasks.desk.versions import roll_back
from tasks.plan import Plan
from tasks.register import decide, register_bundle, save_results
from tasks.share import store_plan
from tasks.train import assemble_bundle

RUNNER = CliRunner()
FIRST, SECOND, THIRD = ["rose", "pizza"], ["rose"], ["rose", "snake"]


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, which keep other stores and models: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def lists(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_uri: str) -> Path:
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("CPE_LISTS", str(tmp_path / "lists"))
    monkeypatch.delenv("CPE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    if request.param == "s3":
        monkeypatch.setenv("CPE_STORE", f"s3://{request.getfixturevalue('new_bucket')}/cpe")
    (tmp_path / "lists").mkdir()
    monkeypatch.setitem(NAMED, "name", f"few-{uuid.uuid4().hex[:8]}")
    return tmp_path / "lists"


NAMED = {"name": "few"}


def write(lists: Path, targets: list[str]) -> Path:
    path = lists / "few.yaml"
    path.write_text(yaml.safe_dump({**LIST, **NAMED, "targets": targets}))
    return path


def put(key: str, manifest: dict, **files: str) -> None:
    places = here()
    with places.scratch() as folder:
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        places.store().put(key, folder)


def begin(path: Path) -> Plan:
    """Does what the beginning of a run does, and trains its gates (by hand)."""
    plan = plan_of(path)
    store_plan(here(), plan)
    for gate in plan.gates:
        put(f"gates/{gate.address}", {"concept": gate.concept}, gate_safetensors=gate.concept * 1000)
    return plan


def run(path: Path) -> Plan:
    """Does all that a run does to the store and the registry; pictures and what is seen in them are made by hand."""
    plan = begin(path)
    assemble_bundle(here(), plan)
    for which in ("before", plan.bundle):
        put(f"pictures/{which}", {}, images_parquet="pictures")
        put(f"observations/seen-{which}", {"shard": which}, values="seen")
    scores = store_scores(
        plan, {gate.concept: 0.0 for gate in plan.gates}, {"cat": 1.0, "castle": 1.0},
        {"bundle": plan.bundle, "pictures": {"before": ["before"], "after": [plan.bundle]}},
    )  # fmt: skip
    registered = register_bundle(here(), plan, plan.bundle, scores, {})
    save_results(here(), plan, registered, decide(here(), plan, registered, scores), scores, "report.html", {}, [])
    return plan


def store() -> Store:
    return here().store()


def keys_of(plan: Plan) -> set[str]:
    """Returns what a run by this plan made and nobody else did."""
    return {f"bundles/{plan.bundle}", f"pictures/{plan.bundle}", f"observations/seen-{plan.bundle}"}


def test_what_versions_with_an_alias_need_stays_and_the_rest_goes_once_asked(lists):
    plans = [run(write(lists, targets)) for targets in (FIRST, SECOND, THIRD)]
    before = set(store().keys())
    looked = RUNNER.invoke(app, ["clean", "--keep", "0", "--grace-days", "0"])
    assert looked.exit_code == 0, looked.output
    assert "nothing was removed" in looked.stdout
    assert set(store().keys()) == before
    cleaned = RUNNER.invoke(app, ["clean", "--keep", "0", "--grace-days", "0", "--delete"])
    assert cleaned.exit_code == 0, cleaned.output
    left = set(store().keys())
    gone = before - left
    assert keys_of(plans[0]) <= gone, "it has no alias, and no list asks for it"
    assert "gates/pizzapizzapizza" in gone
    for plan in plans[1:]:  # `previous` and `champion`
        assert keys_of(plan) <= left
        assert {f"gates/{gate.address}" for gate in plan.gates} <= left
    assert {"pictures/before", "observations/seen-before"} <= left
    assert roll_back(here(), f"cpe-{NAMED['name']}", "a try") == (2, 3), "what can be rolled back to is whole"
    assert not clean_store(here(), 0, 0.0).removed.keys() - {key for key in left if key.startswith(("used/", "plans/"))}


def test_the_last_versions_stay_and_so_does_what_is_young(lists):
    plans = [run(write(lists, targets)) for targets in (FIRST, SECOND, THIRD)]
    assert not clean_store(here(), 3, 0.0, delete=True).removed.keys() & keys_of(plans[0])
    assert not clean_store(here(), 0, 1.0, delete=True).removed
    assert keys_of(plans[0]) <= set(store().keys())


def test_what_a_run_that_has_just_begun_needs_stays_however_old_it_is(lists, monkeypatch):
    for targets in (FIRST, SECOND, THIRD):
        run(write(lists, targets))
    days = 0.0
    if store().url.startswith("file:"):
        week, days = time.time() - 7 * 86400, 1.0
        for index in (here().work / "store").rglob("index.json"):
            os.utime(index, (week, week))
    else:  # dates in S3 are the server's own
        time.sleep(10)
    elsewhere = lists.parent / "elsewhere.yaml"
    elsewhere.write_text(yaml.safe_dump({**LIST, "name": "elsewhere", "targets": ["pizza"]}))
    began = time.time()
    begin(elsewhere)
    days = days or (time.time() - began + 5) / 86400  # longer than it took to begin, shorter than the wait before
    removed = clean_store(here(), 0, days, delete=True).removed
    assert removed, "there is something to remove"
    assert store().has("gates/pizzapizzapizza"), "an old gate, which a run of today has found"


def test_a_list_as_it_is_now_keeps_what_was_made_for_it(lists):
    plan = run(write(lists, FIRST))
    run(write(lists, SECOND))
    run(write(lists, THIRD))
    write(lists, FIRST)  # nobody has looked at it since
    clean_store(here(), 0, 0.0, delete=True)
    assert keys_of(plan) <= set(store().keys())


def test_nothing_is_removed_while_a_list_cannot_be_read(lists):
    for targets in (FIRST, SECOND, THIRD):
        run(write(lists, targets))
    before = set(store().keys())
    (lists / "torn.yaml").write_text("name: [")
    with pytest.raises(ConceptListError, match=r"torn\.yaml"):
        clean_store(here(), 0, 0.0, delete=True)
    assert set(store().keys()) == before
    refused = RUNNER.invoke(app, ["clean", "--delete"])
    assert refused.exit_code == 2
    assert "torn.yaml" in refused.stderr


def test_a_version_that_was_cleaned_away_is_made_anew_when_its_list_asks_for_it(lists):
    for targets in (FIRST, SECOND, THIRD):
        run(write(lists, targets))
    clean_store(here(), 0, 0.0, delete=True)
    run(write(lists, FIRST))
    folder = here().registry().fetch(f"cpe-{NAMED['name']}@champion", lists.parent / "fetched")
    assert len(list(folder.glob("gates/*/gate.safetensors"))) == 2

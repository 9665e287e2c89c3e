"""Promotion: by bars, against the champion, by hand and back; two versions compared."""

import pytest
import yaml
from typer.testing import CliRunner

from artifacts.registry.registry import RegistryError
from flows.cli.app import app
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.faults_servers import on_prefect
from helpers.here import here
from helpers.lists import LIST
from tasks.desk.versions import compare

RUNNER = CliRunner()
SHORT = {"stages": 1, "first_steps": 60, "copies": 0}
LITTLE = {
    **LIST,
    "name": "little",
    "training": {"preset": "emoji", "changes": SHORT},
    "evaluation": {"as_published": True, "templates": ["a picture of a {}"], "seeds": 2},
    "bars": {"erased_accuracy_at_most": 1.0, "tolerance": 0.0, "least_pictures": 1},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three versions of one list: two gates; one more; one fewer and another surrogate."""
    with on_prefect(tmp_path_factory):
        patch = pytest.MonkeyPatch()
        work = tmp_path_factory.mktemp("work")
        patch.setenv("CPE_WORK", str(work))
        for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        path = work / "little.yaml"
        results = []
        for changes in (
            {},
            {"targets": ["rose", "pizza", "snake"]},
            {"targets": ["rose"], "surrogate": "animal"},
            {"targets": ["rose"], "surrogate": "animal", "bars": {"erased_accuracy_at_most": 0.0}},
        ):
            path.write_text(yaml.safe_dump({**LITTLE, **changes}))
            results.append(erase_and_evaluate(str(path)))
        yield results
        patch.undo()


def run(*arguments: str) -> str:
    done = RUNNER.invoke(app, ["models", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_only_the_new_gate_is_trained_and_none_for_a_removed_name(runs):
    assert [each["gates"] for each in runs[:3]] == [
        {"trained": 2, "reused": 0},
        {"trained": 1, "reused": 2},
        {"trained": 1, "reused": 0},
    ]
    assert runs[3]["gates"] == {"trained": 0, "reused": 1}


def test_a_version_worse_than_the_champion_is_registered_and_says_what_fell_short(runs):
    registry = here().registry()
    for results in runs:
        tags = registry.resolve(f"cpe-little/{results['version']}").tags
        if results["champion"]:
            assert results["fell_short"] == []
            assert tags["fell_short"] == "nothing"
        else:
            assert results["fell_short"]
            assert tags["fell_short"] == "; ".join(results["fell_short"])
    assert runs[0]["champion"], "nothing to compare with yet"
    kept_out = [results for results in runs[1:3] if not results["champion"]]
    for results in kept_out:
        assert "worse than the champion" in results["fell_short"][0]
    better = [results["erased"]["after"] for results in runs[:3] if results["champion"]]
    assert better == sorted(better, reverse=True), "no champion was worse than the one before"


def test_versions_differ_by_gates_added_removed_and_retrained(runs):
    first, second, third = (f"cpe-little/{results['version']}" for results in runs[:3])
    found = compare(here(), first, second)
    assert (found.gates["added"], found.gates["removed"], found.gates["retrained"]) == (["snake"], [], [])
    assert found.gates["the same"] == ["rose", "pizza"]
    found = compare(here(), second, third)
    assert (found.gates["removed"], found.gates["retrained"]) == (["pizza", "snake"], ["rose"])
    metrics = {name: values for name, _, values in found.metrics}
    assert metrics["noun accuracy, erased"] == (runs[1]["erased"]["after"], runs[2]["erased"]["after"])
    assert "snake" in run("diff", first, second)


def test_promotion_by_hand_and_rollback_are_recorded_with_reason_and_person(runs):
    registry = here().registry()
    champion = registry.champion("cpe-little").version
    other = next(r["version"] for r in runs if r["version"] != champion)
    refused = RUNNER.invoke(app, ["models", "promote", f"cpe-little/{other}", "--reason", " "])
    assert refused.exit_code == 2
    assert registry.champion("cpe-little").version == champion
    assert f"version {other} is champion" in run("promote", f"cpe-little/{other}", "--reason", "looks better")
    tags = registry.resolve(f"cpe-little/{other}").tags
    assert tags["promoted_reason"].startswith("looks better (")
    assert "@" in tags["promoted_reason"]
    assert f"version {champion} is champion again" in run("rollback", "cpe-little", "--reason", "it did not")
    assert registry.champion("cpe-little").version == champion
    assert registry.resolve("cpe-little@previous").version == other
    assert registry.resolve(f"cpe-little/{other}").tags["rolled_back_reason"].startswith("it did not (")


def test_a_version_without_its_files_cannot_become_champion(runs):
    registry = here().registry()
    champion = registry.champion("cpe-little").version
    created = registry.client.create_model_version("cpe-little", source="runs:/0123456789abcdef/bundle")
    with pytest.raises(RegistryError):
        registry.promote("cpe-little", int(created.version), reason="try")
    assert registry.champion("cpe-little").version == champion
    registry.client.delete_model_version("cpe-little", created.version)


def test_rolling_back_what_has_no_past_is_refused(runs):
    done = RUNNER.invoke(app, ["models", "rollback", "cpe-nothing", "--reason", "x"])
    assert done.exit_code == 2
    assert "no champion" in done.stderr


def test_versions_of_different_profiles_are_marked_and_never_promoted(runs, monkeypatch):
    from cpe.terms.profiles import PROFILES

    other = PROFILES["embedded"].model_copy(update={"name": "mace", "steps": 4})
    monkeypatch.setitem(PROFILES, "mace", other)
    work = here().work
    (work / "little.yaml").write_text(yaml.safe_dump(LITTLE))
    results = erase_and_evaluate(str(work / "little.yaml"), profile="mace")
    assert not results["champion"]
    assert "a look, never a champion" in results["fell_short"][-1]
    assert "different profiles" in run()
    assert "not comparable" in run("diff", "cpe-little/1", f"cpe-little/{results['version']}")

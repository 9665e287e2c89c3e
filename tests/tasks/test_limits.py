"""What an unattended list may ask for: ceilings, its own budget, one list a name; refused before anything is made."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from artifacts.hashing import content_hash
from cpe.lists.reading import ConceptListError, load_list, load_only_list, parse_list
from cpe.lists.schema import ConceptList
from cpe.methods.pinpoint.config import PRESETS, TrainingConfig
from cpe.methods.pinpoint.method import PINPOINT
from flows.cli.app import app
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.faults_servers import on_prefect
from helpers.here import here
from helpers.lists import LIST
from helpers.places import LISTS
from tasks.desk.cost import Cost
from tasks.desk.limits import check_costs, check_limits
from tasks.prepare import prepare_concepts
from tasks.watch.events import changed_lists

RUNNER = CliRunner()
EMOJI_HASH = "78a1d6f6fb050464237a2a7940ee560819bb43568be1927fd267ed72ff776332"  # as versions are registered with
FEW = {**LIST, "bars": {key: value for key, value in LIST["bars"].items() if key != "least_pictures"}}
FEW_HASH = "81f04b59080bb3213ab6b64e27d57dc35a487f664aad85d9d505c32349330625"  # of FEW, as it was before


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    with on_prefect(tmp_path_factory):
        yield


@pytest.fixture
def lists(tmp_path, monkeypatch):
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("work", "data", "lists"):
        monkeypatch.setenv(f"CPE_{name.upper()}", str(tmp_path / name))
    (tmp_path / "lists").mkdir()
    return tmp_path / "lists"


def write(lists: Path, file: str, **changes: object) -> Path:
    path = lists / f"{file}.yaml"
    path.write_text(yaml.safe_dump({**LIST, **changes}))
    return path


def examined() -> dict[str, str]:
    """Returns what `cpe doctor` says of each list."""
    return {
        each["name"]: each["found"] for each in json.loads(RUNNER.invoke(app, ["doctor", "--json"]).stdout)["lists"]
    }


def nothing_made() -> bool:
    return not any(here().store().keys(kind) for kind in ("gates", "pictures"))


def test_a_list_without_limits_keeps_the_hash_it_was_registered_with():
    assert load_list(LISTS / "emoji.yaml").content_hash == EMOJI_HASH
    assert ConceptList.model_validate(FEW).content_hash == FEW_HASH
    assert ConceptList.model_validate({**FEW, "limits": None}).content_hash == FEW_HASH
    limited = [ConceptList.model_validate({**FEW, "limits": {"pictures": most}}).content_hash for most in (99, 100)]
    assert len({FEW_HASH, *limited}) == 3


def test_limits_are_no_part_of_what_a_gate_is_known_by(lists):
    plain = prepare_concepts(here(), str(write(lists, "few")))
    limited = prepare_concepts(here(), str(write(lists, "few", limits={"pictures": 100, "hours": 3})))
    assert [gate.address for gate in plain.gates] == [gate.address for gate in limited.gates]
    gate = plain.gates[0]
    known_by = {
        "algorithm": PINPOINT.version,
        "names": gate.names,
        "surrogate": gate.surrogate,
        "anchors": gate.anchors,
        "templates": tuple(LIST["templates"]),
        "training": plain.concepts.training_config.model_dump(),
        "base": plain.fingerprint,
        "seed": 0,
    }
    assert gate.address == content_hash(known_by)[:24]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("evaluation", "seeds", 99_999),
        ("anchors", "neighbors", 5001),
        *[
            ("training", key, 1_000_000)
            for key in ("stages", "first_steps", "later_steps", "adversary_steps", "copies")
        ],
        *[("training", key, 50_001) for key in ("warmup_steps", "replay", "targets_per_step", "anchors_per_step")],
    ],
)
def test_a_slip_of_the_keyboard_is_refused_with_its_line(section, key, value):
    values = yaml.safe_load((LISTS / "celebs.yaml").read_text())
    holder = values[section] if section != "training" else values[section].setdefault("changes", {})
    holder[key] = value
    text = yaml.safe_dump(values, sort_keys=False)
    with pytest.raises(ConceptListError, match=rf"line \d+: .*{key} must be less than or equal to .*, got {value}"):
        parse_list(text)


def test_published_experiments_are_far_below_every_ceiling():
    ceilings = {
        name: field.metadata[-1].le for name, field in TrainingConfig.model_fields.items() if field.annotation is int
    }
    assert set(ceilings) >= {"stages", "first_steps", "later_steps", "adversary_steps", "copies", "replay"}
    for preset in PRESETS.values():
        for name, ceiling in ceilings.items():
            assert 5 * getattr(preset, name) <= ceiling, name
    for path in LISTS.glob("*.yaml"):
        assert 5 * load_list(path).evaluation.seeds <= 1000


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"pictures": 31},
            "takes 32 pictures, before and after erasing (erased 16, kept 16), and limits.pictures allows 31",
        ),
        ({"hours": 1e-6}, "limits.hours allows 0.0 s"),
    ],
)
def test_a_list_over_its_budget_is_refused_by_plan_and_run_before_anything_is_made(prefect, lists, limits, message):
    path = write(lists, "few", limits=limits)
    planned = RUNNER.invoke(app, ["plan", str(path)])
    assert planned.exit_code == 2
    assert message in planned.stderr
    assert "gates to train" in planned.stdout, "the costs are shown"
    with pytest.raises(ValueError, match="limits"):
        erase_and_evaluate(str(path))
    assert nothing_made()
    if "pictures" in limits:
        erased = RUNNER.invoke(app, ["erase", str(path)])
        assert (erased.exit_code, message in erased.stderr) == (2, True)
        assert message in examined()["few"]


def test_a_list_within_its_budget_runs(lists):
    path = write(lists, "few", limits={"pictures": 32, "hours": 1})
    check_limits(here(), prepare_concepts(here(), str(path)))
    quick = prepare_concepts(
        here(),
        str(write(lists, "few", limits={"pictures": 32}, evaluation={**LIST["evaluation"], "seeds": 4})),
        "quick",
    )
    check_limits(here(), quick)


def test_hours_count_what_is_still_to_do(lists):
    plan = prepare_concepts(here(), str(write(lists, "few", limits={"hours": 2})))
    check_costs(plan, [Cost("gates to train", 2, 2, 0, 3600.0), Cost("pictures after erasing", 8, 8, 0, 3600.0)])
    parts = "gates to train 1 h 00 min, pictures after erasing 1 h 29 min"
    with pytest.raises(ValueError, match=rf"takes some 2 h 29 min .*{parts}"):
        check_costs(plan, [Cost("gates to train", 2, 2, 0, 3600.0), Cost("pictures after erasing", 8, 8, 0, 5399.0)])


def test_two_lists_of_one_name_are_refused_by_every_door_naming_both(lists):
    first, second = write(lists, "one", name="same"), write(lists, "two", name="Same")
    write(lists, "three", name="other")
    (lists / "broken.yaml").write_text("name: [same")
    for path, other in ((first, second), (second, first)):
        with pytest.raises(ConceptListError, match=rf"{path} and {other} are two lists of the name"):
            load_only_list(path)
        for command in ("erase", "plan", "evaluate"):
            done = RUNNER.invoke(app, [command, path.stem])
            assert done.exit_code == 2, (command, done.output)
            assert f"{path} and {other}" in done.stderr
    changed = {each.name: each.problem for each in changed_lists(here(), ["one", "two", "three"])}
    assert changed["three"] is None
    assert str(second) in changed["one"]
    assert str(first) in changed["two"]
    found = examined()
    assert str(second) in found["one"]
    assert str(first) in found["two"]
    assert "everything is here" in found["three"]
    second.unlink()
    second.symlink_to(first.name)
    assert load_only_list(first) == load_only_list(second), "one file under two names is one list"

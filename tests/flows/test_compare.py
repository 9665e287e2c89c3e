"""`cpe compare`: ways of erasing on one list, the same pictures, one page and one table; nothing is made twice."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

import flows.share
from artifacts.tables import comparison_schema, read_table
from cpe.lists.comparison import ways_of
from cpe.lists.reading import ConceptListError, load_list, parse_list
from flows.cli.app import app
from flows.compare import compare
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.faults_servers import on_prefect
from helpers.lists import LIST
from tasks.here.places import Places

RUNNER = CliRunner()
SMALL = {
    **LIST,
    "name": "compared",
    "templates": ["a {}", "a picture of a {}"],
    "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 20}},
    "evaluation": {"as_published": True, "templates": ["a picture of a {}"], "seeds": 2, "attacks": ["capitals"]},
    "bars": {},
}
METHODS = ["--method", "cpe", "--method", "uce"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """One work folder with a finished run of a list in it, and then a comparison of two methods, two seeds of one."""
    patch, work = pytest.MonkeyPatch(), tmp_path_factory.mktemp("work")
    patch.setenv("CPE_WORK", str(work))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        patch.delenv(name, raising=False)
    path = work / "compared.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    with on_prefect(tmp_path_factory):
        own = erase_and_evaluate(str(path))
        drawn, pictures = _counted(patch)
        found = compare(str(path), ["cpe", "uce"], seeds=2)
        patch.setattr("cpe.models.drawing.generate", drawn)
        yield SimpleNamespace(work=work, path=path, own=own, found=found, drawn=list(pictures))
    patch.undo()


def _counted(patch):
    """Puts a drawing that notes each picture into the real one's place; returns the real one and the notes."""
    import cpe.models.drawing

    real, pictures = cpe.models.drawing.generate, []

    def noting(*given, **options):
        for job, picture in real(*given, **options):
            pictures.append(job.picture_id)
            yield job, picture

    patch.setattr("cpe.models.drawing.generate", noting)
    return real, pictures


@pytest.fixture
def nothing_is_made(monkeypatch):
    def never(*given, **options):
        raise AssertionError("made again")

    monkeypatch.setattr("cpe.models.drawing.generate", never)
    monkeypatch.setattr("cpe.methods.pinpoint.training.train", never)
    monkeypatch.setattr("cpe.methods.uce.edit.text_map", never)


@pytest.mark.slow
def test_every_way_is_a_row_and_what_the_list_itself_made_is_reused(workplace):
    rows = workplace.found["rows"]
    assert [(row["method"], row["seed"]) for row in rows] == [("cpe", 0), ("cpe", 1), ("uce", None)]
    own, seeded, edit = rows
    assert own["erased"] == workplace.own["erased"]["after"], "the list's own run"
    assert len({row["bundle"] for row in rows}) == 3
    assert len({row["measures"]["erased"]["before"] for row in (own, seeded, edit)}) == 1, "the same pictures"
    pictures = (2 + 2) * 2 + workplace.found["rows"][0]["attacks"]["capitals"]["count"]
    assert len(workplace.drawn) == 2 * pictures, "seed 1 and the edit; untouched pictures and seed 0 were there"
    for row in rows:
        assert row["seconds"] > 0
        assert row["bytes"] > 0
        low, rate, high = (row["attacks"]["capitals"][key] for key in ("low", "rate", "high"))
        assert 0 <= low <= rate <= high <= 1
        assert row["attacks"]["capitals"]["control"] > 0.5, "what the model draws"
        assert "kept_psnr" in row["measures"]
    assert edit["erased"] < edit["measures"]["erased"]["before"], "the edit erases"


@pytest.mark.slow
def test_the_table_says_what_the_figures_say(workplace):
    found = workplace.found
    manifest = json.loads(
        (Places.from_environment().fetched(f"comparisons/{found['address']}") / "manifest.json").read_text()
    )
    rows = read_table(found["table"], comparison_schema(manifest["measures"]))
    assert [row["erased"] for row in rows] == [row["erased"] for row in found["rows"]]
    assert [row["attack-capitals_before"] for row in rows] == [
        row["attacks"]["capitals"]["control"] for row in found["rows"]
    ]
    assert {row["profile"] for row in rows} == {"embedded"}


@pytest.mark.slow
def test_the_page_shows_every_method_beside_the_untouched_model_and_needs_nothing_else(workplace):
    html = Path(workplace.found["page"]).read_text()
    assert Path(workplace.found["page"]).parent == workplace.work / "reports"
    for text in ("untouched", "uce", "any seed", "2 seeds", "capitals", "Erased against kept", "Seed by seed"):
        assert text in html
    assert html.count("<img") == 3 * (2 + 2 + 1), "columns, times erased, kept and attacked"
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.slow
def test_a_second_run_makes_nothing_again(workplace, nothing_is_made):
    assert compare(str(workplace.path), ["uce", "cpe", "uce"], seeds=2)["rows"] == workplace.found["rows"]


@pytest.mark.slow
def test_json_prints_the_stored_comparison_and_runs_nothing(workplace, nothing_is_made, monkeypatch):
    monkeypatch.setattr("flows.cli.compare.start_prefect", lambda: pytest.fail("nothing is to be run"))
    for options in ([], METHODS, ["--seeds", "2"]):
        shown = RUNNER.invoke(app, ["compare", str(workplace.path), *options, "--json"])
        assert shown.exit_code == 0, shown.output
        assert json.loads(shown.stdout) == workplace.found


@pytest.mark.slow
def test_the_command_runs_what_is_not_stored_and_shows_it(workplace):
    fewer = RUNNER.invoke(app, ["compare", str(workplace.path), "--method", "uce", "--seeds", "1", "--json"])
    assert fewer.exit_code == 0, fewer.output
    assert [row["method"] for row in json.loads(fewer.stdout)["rows"]] == ["uce"]
    shown = RUNNER.invoke(app, ["compare", str(workplace.path), *METHODS, "--seeds", "2"])
    assert shown.exit_code == 0, shown.output
    assert "compared on embedded" in shown.stdout
    assert str(workplace.found["page"]) in shown.stdout.replace("\n", "")


@pytest.mark.slow
def test_a_sweep_over_how_many_are_erased_trains_each_gate_once_and_shows_the_curves(workplace, monkeypatch):
    monkeypatch.setattr("cpe.methods.pinpoint.training.train", lambda *given, **options: pytest.fail("trained again"))
    found = compare(str(workplace.path), ["uce", "cpe"], seeds=1, erased=[2, 1])
    ways = [(row["method"], row["targets"]) for row in found["rows"]]
    assert ways == [("cpe", 1), ("cpe", 2), ("uce", 1), ("uce", 2)]
    all_of_them = {row["method"]: row for row in workplace.found["rows"] if row["seed"] != 1}
    for row in found["rows"]:
        if row["targets"] == 2:
            assert row["scores"] == all_of_them[row["method"]]["scores"], "the same as without a sweep"
    html = Path(found["page"]).read_text()
    assert "As more is erased" in html
    assert html.count("<polyline") == 3 * 2, "erased, kept, H0; two methods"
    assert "--erase 1 --erase 2" in html
    shown = RUNNER.invoke(app, ["compare", str(workplace.path), *METHODS, "--erase", "1", "--erase", "2", "--json"])
    assert json.loads(shown.stdout) == found
    plain = RUNNER.invoke(app, ["compare", str(workplace.path), *METHODS, "--json"])
    assert json.loads(plain.stdout) == workplace.found, "a sweep does not answer for a comparison of all"


@pytest.mark.slow
def test_nothing_is_registered(workplace):
    assert len(Places.from_environment().registry().models()) == 1, "the list's own run alone"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "nosuch"], "no method 'nosuch'; there are cpe, uce"),
        (["--seeds", "0"], "seeds must be 1 to"),
        (["--profile", "nosuch"], "no profile 'nosuch'"),
        (["--erase", "3"], "has 2 targets to erase, asked for 3"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    path = tmp_path / "compared.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    shown = RUNNER.invoke(app, ["compare", str(path), *options])
    assert shown.exit_code == 2, shown.output
    assert message in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert not (tmp_path / "work" / "store").exists()


def test_a_way_of_fewer_targets_is_the_list_with_its_first_ones_and_its_gates_are_the_same():
    listed = parse_list(yaml.safe_dump(SMALL))
    one, both, whole = (*ways_of(listed, ["cpe"], 1, [2, 1, 2]), *ways_of(listed, ["cpe"], 1))
    assert [target.name for target in one.of(listed).targets] == ["rose"]
    assert both.of(listed).content_hash == whole.of(listed).content_hash == listed.content_hash
    assert "erased" not in whole.model_dump(), "comparisons that were stored keep their addresses"


def test_a_method_takes_the_preset_that_fits_or_what_the_list_says():
    def presets(**changes):
        listed = parse_list(yaml.safe_dump({**SMALL, **changes}))
        return {way.method: way.training for way in ways_of(listed, ["cpe", "uce"], 1)}

    assert {name: training.preset for name, training in presets().items()} == {"cpe": "emoji", "uce": "emoji"}
    celebrity = presets(training={"preset": "celebrity"})
    assert celebrity["uce"].preset == "published"
    told = presets(comparison={"uce": {"preset": "published", "changes": {"ridge": 0.2}}})
    assert told["uce"].model_dump() == {"preset": "published", "changes": {"ridge": 0.2}}
    with pytest.raises(ValueError, match=r"method 'cpe' has no preset .* write `comparison: \{cpe:"):
        presets(method="uce", training={"preset": "published"})


def test_what_a_list_says_of_other_methods_is_checked_and_changes_no_hash_where_nothing_is_said(tmp_path):
    for comparison, message in (
        ({"uce": {"preset": "nosuch"}}, "comparison.uce.preset"),
        ({"uce": {"preset": "emoji", "changes": {"ridges": 1}}}, "comparison.uce.changes.ridges"),
        ({"nosuch": {"preset": "emoji"}}, "names no method"),
        ({"cpe": {"preset": "emoji"}}, "is the list's own method"),
    ):
        with pytest.raises(ConceptListError, match=message):
            parse_list(yaml.safe_dump({**SMALL, "comparison": comparison}))
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    assert load_list(path).content_hash == parse_list(yaml.safe_dump({**SMALL, "comparison": {}})).content_hash


def test_parts_of_two_plans_in_one_run_are_two_runs(monkeypatch):
    """Prefect gives the same run to the same key: another plan's part would be taken for done."""
    asked = []
    monkeypatch.setattr(flows.share, "pieces", lambda *given: ["gates/missing"])
    monkeypatch.setattr(flows.share, "left_to_do", lambda keys: 1)
    monkeypatch.setattr(flows.share, "do_part", lambda *given: None)
    monkeypatch.setattr(flows.share, "_finished", lambda run, keys: True)
    monkeypatch.setattr(flows.share, "flow_run", SimpleNamespace(id="one"))
    monkeypatch.setattr(
        flows.share, "run_deployment", lambda *given, **options: asked.append(options["idempotency_key"])
    )
    for address in ("first", "second"):
        flows.share.share(None, address, "train", 2)
    assert len(set(asked)) == 2

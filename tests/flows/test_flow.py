"""The main job, small: list to registered gates on the embedded model, with real Prefect, MLflow and store."""

import errno
import io
import json
import os
import re
import resource
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import cpe.models.loading
from artifacts.hashing import folder_hash
from artifacts.registry.registry import Registry, RegistryError
from artifacts.registry.versions import FILES_HASH
from artifacts.stores.opening import open_store
from artifacts.tables import IMAGES, PICTURES, SCORES, read_table
from cpe.embedded.pixels import to_tensor
from cpe.lists.reading import ConceptListError
from cpe.methods.erased import Erased
from cpe.methods.pinpoint.eraser import Eraser
from cpe.models.loading import load_pipeline
from cpe.models.sites import find_projections
from cpe.models.text import encode_prompts
from flows.attack import attack
from flows.cli.app import app
from flows.compare import compare
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.faults_servers import on_prefect
from helpers.here import here
from helpers.lists import LIST
from tasks.draw import draw_pictures, shards
from tasks.evaluation.look import pictures_folder, read_picture
from tasks.evaluation.observers import open_observers
from tasks.prepare import prepare_concepts
from wording.figures import number

RUNNER = CliRunner()


def apart(path: Path, name: str) -> Path:
    """Returns where another list of the same name may be: in a folder of its own."""
    (path.parent / name).mkdir(exist_ok=True)
    return path.parent / name / path.name


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    with on_prefect(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, harness):
    """One work folder with one finished run in it."""
    patch = pytest.MonkeyPatch()
    work = tmp_path_factory.mktemp("work")
    patch.setenv("CPE_WORK", str(work))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        patch.delenv(name, raising=False)
    path = work / "few.yaml"
    path.write_text(yaml.safe_dump(LIST))
    results = erase_and_evaluate(str(path))
    yield work, path, results
    patch.undo()


@pytest.mark.parametrize("flow", [erase_and_evaluate, attack, compare])
def test_a_list_is_asked_for_by_its_name_and_as_earlier_deployments_do(harness, flow):
    for given in (
        {"list": "no/such.yaml"},
        {"concepts": "no/such.yaml"},
        {"list": "emoji", "concepts": "no/such.yaml"},
    ):
        with pytest.raises(ConceptListError, match=r"no/such\.yaml"):
            flow(**given)


def test_concepts_were_there_are_gone_and_others_stay(workplace):
    _, _, results = workplace
    assert results["erased"]["before"] >= 0.75, "positive control: the model drew them"
    assert results["erased"]["after"] <= 0.25
    assert results["erased"]["count"] == 2 * 2 * 2
    assert results["kept"]["after"] >= 0.75 * results["kept"]["before"]
    assert results["gates"] == {"trained": 2, "reused": 0}
    assert set(results["seconds"]) >= {"prepare", "train", "draw before", "draw after", "measure"}


def test_the_bundle_is_registered_with_its_scores_and_its_gates_erase(workplace):
    work, _, results = workplace
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    found = registry.resolve(f"{results['model']}/{results['version']}")
    assert results["model"] == "cpe-few"
    assert found.tags["erased_accuracy"] == f"{results['erased']['after']:.4f}"
    assert ("champion" in found.aliases) == results["champion"] == all(bar["holds"] for bar in results["bars"])
    eraser = Eraser.load(registry.fetch("models:/cpe-few/1", work / "copy"))
    assert set(eraser.concepts) == {"rose", "pizza"}
    pipe = load_pipeline("embedded", device="cpu")
    text = encode_prompts(pipe, ["a picture of a rose", "a picture of a castle"])
    rose, castle = (sum(r[row].norm() for r in eraser.residuals(text).values()) for row in (0, 1))
    assert rose > 3 * castle


def test_tables_join_by_row_and_every_picture_is_there(workplace):
    work, path, _ = workplace
    plan = prepare_concepts(here(), str(path))
    for bundle in (None, plan.bundle):
        rows = []
        for address in draw_pictures(here(), plan, bundle):
            folder = here().fetched(f"pictures/{address}")
            drawn = read_table(folder / "images.parquet", IMAGES)
            assert all((folder / row["path"]).exists() for row in drawn)
            rows += drawn
        assert len(rows) == 4 * 2 * 2
        assert {row["bundle"] for row in rows} == {bundle}
    scores = next((work / "fetched").glob("*/scores/*/scores.parquet"))
    seen = read_table(scores.with_name("pictures.parquet"), PICTURES)
    assert len(seen) == 2 * 4 * 2 * 2
    for row in seen:
        assert (work / "store" / "pictures" / row["shard"]).is_dir()
        assert row["bundle"] == (plan.bundle if row["phase"] == "after" else None)
    right = [row["recognised"] == row["concept"] for row in seen if (row["phase"], row["set"]) == ("before", "erased")]
    stored = {(r["metric"], r["phase"], r["role"], r["group"]): r["value"] for r in read_table(scores, SCORES)}
    assert stored["noun_accuracy", "before", "erased", "all"] == sum(right) / len(right)
    metrics = {row["metric"] for row in read_table(scores, SCORES)}
    assert metrics >= {
        "noun_accuracy", "style_accuracy", "h0", "clip_score", "fid_embedded", "kid_embedded", "gate_openness",
        "residual_energy", "kept_distance", "kept_psnr",
    }  # fmt: skip


def test_the_report_shows_the_run_and_needs_nothing_else(workplace):
    work, _, results = workplace
    html = Path(results["report"]).read_text()
    assert "rose" in html
    assert "cpe-few" in html
    assert "Kept, moved most" in html
    assert html.count("PSNR") > 8, "each of the kept pictures that moved most"
    assert not re.search(r"""(src|href)=["']https?:""", html)
    client = Registry(f"sqlite:///{work / 'mlflow.db'}").client
    version = client.get_model_version("cpe-few", "1")
    assert [file.path for file in client.list_artifacts(version.run_id, "report")]


def test_a_second_run_makes_nothing_again(workplace, monkeypatch):
    _, path, results = workplace

    def never(*arguments, **options):
        raise AssertionError("made again")

    monkeypatch.setattr("cpe.models.drawing.generate", never)
    monkeypatch.setattr("cpe.methods.pinpoint.training.train", never)
    again = erase_and_evaluate(str(path))
    assert again["gates"] == {"trained": 0, "reused": 2}
    assert (again["model"], again["version"]) == (results["model"], results["version"])
    assert again["erased"] == results["erased"]


def test_adding_a_concept_trains_its_gate_alone(workplace):
    _, path, _ = workplace
    old = prepare_concepts(here(), str(path))
    more = apart(path, "more")
    more.write_text(yaml.safe_dump({**LIST, "targets": ["rose", "pizza", "snake"]}))
    new = prepare_concepts(here(), str(more))
    assert [gate.address for gate in new.gates[:2]] == [gate.address for gate in old.gates]
    assert new.bundle != old.bundle
    anchor = next(name for name in old.gates[0].anchors if name in LIST["anchors"]["pool"])
    more.write_text(yaml.safe_dump({**LIST, "targets": ["rose", "pizza", anchor]}))
    erasing_an_anchor = prepare_concepts(here(), str(more))
    assert [gate.address for gate in erasing_an_anchor.gates[:2]] == [gate.address for gate in old.gates]
    assert not {"rose", "pizza", anchor} & set(erasing_an_anchor.gates[2].anchors)
    more.write_text(yaml.safe_dump({**LIST, "targets": ["pizza"]}))
    assert [gate.address for gate in prepare_concepts(here(), str(more)).gates] == [old.gates[1].address]
    changed = apart(path, "changed")
    changed.write_text(yaml.safe_dump({**LIST, "surrogate": "animal"}))
    assert not {g.address for g in prepare_concepts(here(), str(changed)).gates} & {g.address for g in old.gates}


def test_another_method_goes_the_whole_way(workplace, tmp_path, monkeypatch):
    """UCE: trained, drawn, measured, reported, stored, registered, promoted and attached, as gates are."""
    work, path, cpe_results = workplace
    listed = path.with_name("uce.yaml")
    bars = {"erased_accuracy_at_most": 0.5, "least_pictures": 8}
    listed.write_text(
        yaml.safe_dump({**LIST, "name": "edited", "method": "uce", "training": {"preset": "emoji"}, "bars": bars})
    )
    real, opened = cpe.models.loading.load_pipeline, []
    with monkeypatch.context() as patch:
        patch.setattr("tasks.here.models._kept", {})
        patch.setattr(cpe.models.loading, "load_pipeline", lambda *a, **o: opened.append(a) or real(*a, **o))
        results = erase_and_evaluate(str(listed))
    assert opened == [("embedded",)], "the base model is opened once a process"
    assert results["erased"]["before"] == cpe_results["erased"]["before"], "the same pictures"
    assert results["erased"]["after"] <= 0.5
    assert (results["champion"], results["gates"]) == (True, {"trained": 2, "reused": 0})
    plan = prepare_concepts(here(), str(listed))
    (address,) = plan.addresses
    assert open_store(str(work / "store")).has(f"gates/{address}")
    registry = here().registry()
    version = registry.resolve("cpe-edited@champion")
    assert (version.tags["method"], version.tags["erased"]) == ("uce", "rose, pizza")
    erased = Erased.load(registry.fetch("cpe-edited@champion", tmp_path / "fetched"))
    assert erased.concepts == ("rose", "pizza")
    html = Path(results["report"]).read_text()
    assert "&#34;method&#34;: &#34;uce&#34;" in html or '"method": "uce"' in html
    pipe = load_pipeline("embedded", device="cpu")
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    with erased.attached(pipe):
        changed = [name for name, value in pipe.unet.state_dict().items() if not torch.equal(value, before[name])]
    assert set(changed) == {f"{site}.weight" for site in find_projections(pipe.unet)}
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    shown = RUNNER.invoke(app, ["generate", "a rose", "--gates", "cpe-edited/1", "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    again = erase_and_evaluate(str(listed))
    assert (again["version"], again["gates"]) == (results["version"], {"trained": 0, "reused": 2})
    more = apart(listed, "uce-more")
    more.write_text(yaml.safe_dump({**yaml.safe_load(listed.read_text()), "targets": ["rose", "pizza", "snake"]}))
    assert prepare_concepts(here(), str(more)).addresses != plan.addresses, "all concepts are in one edit"


def test_a_champion_whose_alias_was_lost_is_champion_again_after_a_run(workplace):
    work, path, results = workplace
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    assert results["champion"], "the case needs a champion"
    for alias in ("champion", "previous"):
        with suppress(Exception):
            registry.client.delete_registered_model_alias("cpe-few", alias)
    assert "another version has been chosen" in RUNNER.invoke(app, ["results", "--list", "few"]).stdout
    assert RUNNER.invoke(app, ["status", str(path)]).exit_code == 1
    assert erase_and_evaluate(str(path))["champion"]
    assert registry.resolve("cpe-few/1").aliases == ("champion",)
    assert RUNNER.invoke(app, ["status", str(path)]).exit_code == 0


def test_a_missed_bar_leaves_the_version_registered_and_not_champion(workplace):
    work, path, _ = workplace
    strict = path.with_name("strict.yaml")
    strict.write_text(yaml.safe_dump({**LIST, "name": "strict", "bars": {"kept_ratio_at_least": 5.0}}))
    results = erase_and_evaluate(str(strict))
    assert results["gates"] == {"trained": 0, "reused": 2}, "the same gates under another list's name"
    assert not results["champion"]
    found = Registry(f"sqlite:///{work / 'mlflow.db'}").resolve("cpe-strict/1")
    assert found.aliases == ()
    assert "kept" in found.tags["fell_short"]


def test_a_version_measured_on_few_pictures_is_not_promoted_and_says_why(workplace):
    work, path, _ = workplace
    few = path.with_name("hasty.yaml")
    few.write_text(yaml.safe_dump({**LIST, "name": "hasty", "bars": {"erased_accuracy_at_most": 1.0}}))
    results = erase_and_evaluate(str(few))
    assert results["erased"]["after"] <= 0.25, "the bar itself is reached"
    assert not results["champion"]
    told = Registry(f"sqlite:///{work / 'mlflow.db'}").resolve("cpe-hasty/1").tags["fell_short"]
    assert "measured on 8 pictures, bars.least_pictures asks for 100" in told
    assert "bars.least_pictures asks for 100" in RUNNER.invoke(app, ["results", "--list", "hasty"]).stdout


def test_word2vec_finds_anchors_in_its_whole_vocabulary_or_in_the_pool(workplace):
    _, path, _ = workplace
    words = apart(path, "words")
    anchors = {"general": ["animal"], "by": "word2vec", "neighbors": 5}
    words.write_text(yaml.safe_dump({**LIST, "anchors": anchors}))
    whole = prepare_concepts(here(), str(words)).gates[1]
    assert len(whole.anchors) == 6
    assert not {"rose", "pizza", "cat", "castle"} & set(whole.anchors)
    words.write_text(yaml.safe_dump({**LIST, "anchors": {**anchors, "pool": ["bread", "zzqqxx", "taco"]}}))
    plan = prepare_concepts(here(), str(words))
    assert set(plan.gates[1].anchors) == {"animal", "bread", "taco"}
    assert any("zzqqxx" in note for note in plan.notes)


def test_a_shard_has_no_more_open_files_than_one_picture_needs(workplace):
    _, path, _ = workplace
    places = here()
    plan = prepare_concepts(places, str(path))
    folder = pictures_folder(places, plan, None, next(shards(plan, None)))
    open_files = os.listdir("/proc/self/fd")
    limit = max(map(int, open_files)) + 10
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        pictures = [read_picture(folder / "000000.png") for _ in range(limit)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {picture.size for picture in pictures} == {(64, 64)}


def noting(real, drawn):
    """Returns `generate`, which notes what it draws."""
    return lambda *a, **o: (drawn.append(p[0].picture_id) or p for p in real(*a, **o))


def test_pictures_damaged_in_the_store_are_drawn_again_and_only_those(workplace, monkeypatch):
    _, path, _ = workplace
    places = here()
    plan = prepare_concepts(places, str(path))
    shard = next(shards(plan, None))
    folder = pictures_folder(places, plan, None, shard)
    whole = {name: (folder / name).read_bytes() for name in ("000001.png", "000002.png")}
    stored = places.work / "store" / shard.key / "000001.png"
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    shutil.rmtree(places.work / "fetched")
    import cpe.models.drawing

    real, drawn = cpe.models.drawing.generate, []
    monkeypatch.setattr("cpe.models.drawing.generate", noting(real, drawn))
    mended = pictures_folder(places, plan, None, shard)
    assert drawn == ["000001.png"]
    assert (mended / "000002.png").read_bytes() == whole["000002.png"]
    first, second = (to_tensor([read_picture(f)]) for f in (mended / "000001.png", io.BytesIO(whole["000001.png"])))
    assert (first - second).abs().max() <= 2.1 / 255, "the same picture, but for the batch it was drawn in"


def test_what_was_looked_at_is_not_looked_at_again(workplace, monkeypatch):
    _, path, results = workplace
    places = here()
    plan = prepare_concepts(places, str(path))
    with open_observers(plan, places) as (observers, holes):
        assert set(observers) == {"clip", "classifier"}
        assert holes == []
        for kind in {type(observer) for observer in observers.values()}:
            monkeypatch.setattr(kind, "look", None)
    for scores in (places.work / "store" / "scores").iterdir():
        if scores.is_dir() and not scores.name.startswith("."):
            shutil.rmtree(scores)
    from tasks.evaluation.score import measure
    from tasks.figures import Scores

    monkeypatch.setattr("cpe.models.drawing.generate", None)
    again = Scores.of(places, measure(places, plan, plan.bundle))
    assert again.pair("noun_accuracy", "erased") == results["erased"]


def test_stopped_drawing_goes_on_and_damaged_pictures_are_drawn_again(workplace, monkeypatch):
    work, path, _ = workplace
    other = apart(path, "other")
    evaluation = {"templates": ["an emoji of a {}"], "seeds": 2}
    other.write_text(yaml.safe_dump({**LIST, "evaluation": evaluation}))
    plan = prepare_concepts(here(), str(other))
    import cpe.models.drawing

    real, drawn = cpe.models.drawing.generate, []

    def stopping(pipe, jobs, profile, **options):
        for done, pair in enumerate(real(pipe, jobs, profile)):
            if done == 3:
                raise KeyboardInterrupt
            drawn.append(pair[0].picture_id)
            yield pair

    monkeypatch.setattr("cpe.models.drawing.generate", stopping)
    with pytest.raises(KeyboardInterrupt):
        draw_pictures(here(), plan, None)
    folder = next((work / "drawing").glob("*/000000.png")).parent
    picture = folder / drawn[0]
    picture.write_bytes(picture.read_bytes()[:-1] + b"x")  # as long as before, and still a PNG file
    record = folder.with_suffix(".jsonl")
    record.write_text(record.read_text() + '["0000')  # the kill came while this line was written
    drawn.clear()
    monkeypatch.setattr("cpe.models.drawing.generate", noting(real, drawn))
    draw_pictures(here(), plan, None)
    assert drawn == [f"{number:06d}.png" for number in (0, 3, 0, 1, 2, 3)], "rest of the erased, then the kept"


def test_results_and_models_commands_show_the_run(workplace):
    _, _, results = workplace
    shown = RUNNER.invoke(app, ["results", "--json", "--list", "few"])
    assert shown.exit_code == 0, shown.output
    latest = json.loads(shown.stdout)
    assert latest["erased"] == results["erased"]
    for key in ("list", "base_model", "profile", "kept", "h0", "seconds", "model", "version", "report"):
        assert key in latest
    shown = RUNNER.invoke(app, ["results", "few"])
    assert "H0: harmonic mean of 1 - accuracy on erased and accuracy on kept concepts" in shown.output
    assert "H0: harmonic mean of 1 - accuracy on erased" in Path(latest["report"]).read_text()
    shown = RUNNER.invoke(app, ["models"])
    assert "cpe-few" in shown.output
    assert "rose, pizza" in shown.output
    assert "H0: harmonic mean" in shown.output
    shown = RUNNER.invoke(app, ["models", "show", "cpe-few/1"])
    assert "erased_accuracy" in shown.output
    assert re.search(r"erased +│ rose, pizza", shown.output)


def test_every_version_has_a_model_card_that_says_what_the_report_says(workplace, tmp_path):
    card = (here().registry().fetch("cpe-few/1", tmp_path / "fetched") / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "embedded"
    assert "**Erased:** rose, pizza." in text
    assert "**Watched, and to stay as they are:** cat, castle." in text
    assert 'fetch("models:/cpe-few@champion")' in text
    (results,) = [r for r in map(json.loads, (p.read_text() for p in (workplace[0] / "results").glob("*.json")))
                  if r["model"] == "cpe-few" and r["version"] == 1][:1]  # fmt: skip
    for figure in results["figures"]:
        after = number(figure["after"], figure["unit"])
        row = next(line for line in text.splitlines() if line.startswith(f"| {figure['label']} |"))
        assert f"| {after}" in row
    assert re.search(r"\| accuracy on erased concepts \| at most 25.0 % \| .* \| yes \|", text)


def test_a_version_names_its_gates_which_are_stored_once_and_the_hash_of_its_own_files(workplace, tmp_path):
    work, _, _ = workplace
    registry = here().registry()
    fetched = registry.fetch("cpe-few/1", tmp_path / "fetched")
    assert registry.resolve("cpe-few/1").tags[FILES_HASH] == folder_hash(fetched, ignore=["gates/*"])
    assert {path.name for path in fetched.iterdir()} == {"manifest.json", "index.json", "gates", "README.md"}
    gate = next((work / "store" / "gates").glob("*/gate.safetensors"))
    copies = [path for path in (*work.glob("store/**/*"), *work.glob("mlartifacts/**/*")) if path.name == gate.name]
    assert len(copies) == 2, "one of each gate"


def test_a_version_is_fetched_from_the_store_that_it_was_made_in_and_never_with_other_gates(workplace, tmp_path):
    work, _, _ = workplace
    elsewhere = Registry(f"sqlite:///{work / 'mlflow.db'}", store_url=str(tmp_path / "another"))
    assert set(Eraser.load(elsewhere.fetch("cpe-few/1", tmp_path / "fetched")).concepts) == {"rose", "pizza"}
    forged = open_store(str(tmp_path / "forged"))
    one, other = sorted(gate.parent for gate in (work / "store" / "gates").glob("*/gate.safetensors"))
    forged.put(f"gates/{one.name}", other)
    mixed = Registry(f"sqlite:///{work / 'mlflow.db'}", store_url=forged.url)
    with pytest.raises(RegistryError, match="is not the one that the bundle was made of"):
        mixed.fetch("cpe-few/1", tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()
    registry = here().registry()
    registry.set_tags("cpe-few", 1, {"store": str(tmp_path / "moved away")})
    try:
        with pytest.raises(RegistryError, match=r"is not in the store.*set CPE_STORE"):
            Registry(f"sqlite:///{work / 'mlflow.db'}").fetch("cpe-few/1", tmp_path / "none")
    finally:
        registry.set_tags("cpe-few", 1, {"store": here().store_url})


def test_evaluate_command_measures_without_training(workplace):
    _, path, _ = workplace
    shown = RUNNER.invoke(app, ["evaluate", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "noun accuracy" in shown.output


def test_generate_command_draws_with_a_registered_model_and_leaves_no_copy(workplace, tmp_path, monkeypatch):
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    shown = RUNNER.invoke(app, ["generate", "a rose", "--gates", "cpe-few/1", "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    listed = json.loads((tmp_path / "out" / "pictures.json").read_text())
    assert listed[0]["prompt"] == "a rose"
    assert (tmp_path / "out" / listed[0]["path"]).exists()
    assert not list(scratch.iterdir())


def test_a_full_disk_ends_the_run_in_one_message_and_the_next_run_goes_on(harness, tmp_path, monkeypatch):
    import artifacts.stores.folder

    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    path = tmp_path / "little.yaml"
    little = {
        "targets": ["rose"],
        "kept": ["castle"],
        "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 10}},
        "evaluation": {"as_published": True, "templates": ["a {}"], "seeds": 2},
    }
    path.write_text(yaml.safe_dump({**LIST, **little}))
    copy = artifacts.stores.folder._copy_file

    def full(source, target):
        if target.name == "gate.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target)

    monkeypatch.setattr("tasks.steps.train_gates.retries", 0)
    with monkeypatch.context() as patch:
        patch.setattr("artifacts.stores.folder._copy_file", full)
        stopped = RUNNER.invoke(app, ["erase", str(path)])
    assert stopped.exit_code == 2, stopped.output
    assert "full" in stopped.stderr
    assert here().store().keys("gates") == []
    assert not (tmp_path / "work" / "results").exists()
    finished = RUNNER.invoke(app, ["erase", str(path)])
    assert finished.exit_code == 0, finished.output
    assert "Trained 1 of 1 gates" in finished.stdout


def test_the_same_tasks_work_on_an_s3_store(tmp_path, monkeypatch, new_bucket):
    from tasks.train import assemble_bundle, gates_of_bundle, missing_gates, plan_training, train_gates

    monkeypatch.setenv("CPE_STORE", f"s3://{new_bucket}/cpe")
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    path = tmp_path / "list.yaml"
    training = {"preset": "emoji", "changes": {"stages": 1, "first_steps": 10}}
    targets = [{"name": "rose", "aliases": ["red rose"]}, "pizza"]
    path.write_text(yaml.safe_dump({**LIST, "targets": targets, "training": training}))
    plan = prepare_concepts(here(), str(path))
    assert plan_training(here(), plan) == [["rose"], ["pizza"]], "a name more, other shapes: trained apart"
    for group in plan_training(here(), plan):
        train_gates(here(), plan, group)
    assert missing_gates(here(), plan) == []
    bundle = assemble_bundle(here(), plan)
    gates = gates_of_bundle(here(), bundle)
    assert set(Eraser.load(gates).concepts) == {"rose", "pizza"}
    assert here().store().keys("gates") == sorted(f"gates/{g.address}" for g in plan.gates)

"""The registry names only what exists, and says which version is in use: real MLflow on one SQLite database."""

import logging
import sqlite3
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest

from artifacts.hashing import folder_hash
from artifacts.kinds.bundle import write_manifest
from artifacts.registry.fetching import fetch
from artifacts.registry.link import without_credentials
from artifacts.registry.registry import ModelVersion, Registry, RegistryError
from artifacts.registry.versions import FILES_HASH
from artifacts.stores.opening import open_store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(place: Path) -> Registry:
    return Registry(f"sqlite:///{place}/new/folder/mlflow.db", artifact_root=str(place / "files"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", "tiger")


def write_bundle(folder: Path, concept: str) -> Path:
    (folder / "gates").mkdir(parents=True)
    (folder / "manifest.json").write_text(concept)
    (folder / "gates" / "a.safetensors").write_bytes(concept.encode() * 100)
    return folder


def record(registry: Registry, bundle: Path) -> str:
    return registry.record_run("test", params={}, metrics={}, tags={}, artifacts={"bundle": bundle})


def test_a_run_keeps_everything_it_was_given(registry: Registry, place: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    params = {f"param{number}": number for number in range(150)} | {"long": "x" * 10_000, "nothing": None}
    metrics = {f"metric/{number}": number / 7 for number in range(150)}
    run_id = registry.record_run(
        "everything",
        params=params,
        metrics=metrics,
        tags={"list": "abc", "long": "y" * 10_000},
        artifacts={"bundle": bundle, "report": tmp_path / "report.html"},
    )
    run = registry.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == len(params)
    assert len(run.data.params["long"]) == 6000
    assert run.data.params["long"].endswith("x…")
    assert run.data.metrics == metrics
    assert run.data.tags["list"] == "abc"
    assert len(run.data.tags["long"]) == 8000
    assert {each.path for each in registry.client.list_artifacts(run_id, "bundle")} == {
        "bundle/gates",
        "bundle/manifest.json",
    }
    assert [each.path for each in registry.client.list_artifacts(run_id, "report")] == ["report/report.html"]
    assert list((place / "files").rglob("report.html"))


def test_a_run_that_breaks_is_marked_failed(registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "log_artifacts", full)
        with pytest.raises(RegistryError, match=r"cannot record a run in broken.*disk is full"):
            registry.record_run("broken", params={}, metrics={}, tags={}, artifacts={"bundle": bundle})
    with pytest.raises(RegistryError, match=r"bad\*name.*correct the value"):
        registry.record_run("broken", params={}, metrics={"bad*name": 1.0}, tags={}, artifacts={})
    experiment = registry.client.get_experiment_by_name("broken")
    assert [run.info.status for run in registry.client.search_runs([experiment.experiment_id])] == ["FAILED", "FAILED"]


def test_a_run_never_starts_without_its_files(registry: Registry, tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(ValueError, match="must exist"):
        registry.record_run("never", params={}, metrics={}, tags={}, artifacts={"bundle": tmp_path / "none"})
    with pytest.raises(ValueError, match="artifact path must be a plain relative path"):
        registry.record_run("never", params={}, metrics={}, tags={}, artifacts={"../bundle": bundle})
    assert registry.client.get_experiment_by_name("never") is None


def test_a_registered_version_is_found_resolved_and_fetched(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    run_id = record(registry, bundle)
    tags = {"bundle": "3f2a", "accuracy": "0.5"}
    assert registry.register("cpe-found", run_id, "bundle", tags=tags, description="one tiger") == 1
    found = registry.resolve("cpe-found")
    assert found == ModelVersion("cpe-found", 1, (), tags, found.created_at, run_id)
    assert timedelta() <= datetime.now(UTC) - found.created_at < timedelta(minutes=5)
    folder = registry.fetch("models:/cpe-found/1", tmp_path / "new" / "copy")
    assert folder == tmp_path / "new" / "copy"
    assert (folder / "manifest.json").read_text() == "tiger"
    assert (folder / "gates" / "a.safetensors").read_bytes() == b"tiger" * 100
    with pytest.raises(RegistryError, match="target must be a missing or empty folder"):
        registry.fetch("models:/cpe-found/1", tmp_path / "new" / "copy")


def test_what_mlflow_itself_finds_is_the_same(
    registry: Registry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("cpe-mlflow", record(registry, bundle), "bundle", tags={})
    registry.promote("cpe-mlflow", 1, reason="the first")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    folder = mlflow.artifacts.download_artifacts("models:/cpe-mlflow@champion", dst_path=str(tmp_path / "copy"))
    assert (Path(folder) / "manifest.json").read_text() == "tiger"


def test_nothing_is_registered_that_does_not_exist(registry: Registry, bundle: Path) -> None:
    run_id = record(registry, bundle)
    for missing_run, path in ((run_id, "bundel"), ("0" * 32, "bundle")):
        with pytest.raises(RegistryError):
            registry.register("cpe-nothing", missing_run, path, tags={})
    with pytest.raises(RegistryError, match=r"holds no file under 'bundel'.*never names what does not exist"):
        registry.register("cpe-nothing", run_id, "bundel", tags={})
    with pytest.raises(ValueError, match="artifact path must be a plain relative path"):
        registry.register("cpe-nothing", run_id, "../bundle", tags={})
    with pytest.raises(ValueError, match="name must be letters"):
        registry.register("cpe/nothing", run_id, "bundle", tags={})
    assert all(each.name != "cpe-nothing" for each in registry.models())


def test_files_that_were_lost_later_are_an_error(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    run_id = record(registry, bundle)
    registry.register("cpe-lost", run_id, "bundle", tags={})
    uri = registry.client.get_run(run_id).info.artifact_uri.removeprefix("file://")
    for path in Path(uri).rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(RegistryError, match=r"files of run .* are gone"):
        registry.fetch("cpe-lost", tmp_path / "copy")


def test_the_newest_version_with_a_tag_is_found(registry: Registry, bundle: Path) -> None:
    run_id = record(registry, bundle)
    for results in ("a", "b", "a"):
        registry.register("cpe-tagged", run_id, "bundle", tags={"results": results})
    assert registry.find("cpe-tagged", "results", "a") == 3
    assert registry.find("cpe-tagged", "results", "b") == 2
    assert registry.find("cpe-tagged", "results", "c") is None
    assert registry.find("cpe-tagged", "nothing", "a") is None
    assert registry.find("cpe-unheard-of", "results", "a") is None
    registry.set_tags("cpe-tagged", 2, {"results": "it's new", "more": "1"})
    assert registry.resolve("cpe-tagged/2").tags == {"results": "it's new", "more": "1"}
    assert registry.find("cpe-tagged", "results", "it's new") == 2
    with pytest.raises(RegistryError, match="tag cpe-tagged version 9"):
        registry.set_tags("cpe-tagged", 9, {"a": "b"})


def test_promotion_moves_champion_and_previous_and_can_be_undone(registry: Registry, bundle: Path) -> None:
    run_id = record(registry, bundle)
    for _ in range(3):
        registry.register("cpe-promoted", run_id, "bundle", tags={})
    assert registry.resolve("cpe-promoted").version == 3  # no champion yet: the newest
    assert registry.promote("cpe-promoted", 1, reason="first") is None
    assert registry.promote("cpe-promoted", 2, reason="better") == 1
    tags = registry.resolve("cpe-promoted/2").tags
    assert registry.promote("cpe-promoted", 2, reason="again") == 2
    assert registry.resolve("cpe-promoted/2").tags == tags
    assert tags["promoted_reason"] == "better"
    assert datetime.fromisoformat(tags["promoted_at"]).utcoffset() == timedelta()
    assert registry.resolve("cpe-promoted").version == 2
    assert registry.resolve("cpe-promoted@previous").version == 1
    assert registry.promote("cpe-promoted", 1, reason="roll back") == 2
    assert registry.resolve("models:/cpe-promoted@champion").version == 1
    assert registry.resolve("models:/cpe-promoted@previous").version == 2
    with pytest.raises(RegistryError, match="no version 7"):
        registry.promote("cpe-promoted", 7, reason="typing error")
    with pytest.raises(ValueError, match="reason must say why"):
        registry.promote("cpe-promoted", 3, reason=" ")
    assert registry.resolve("cpe-promoted").version == 1


def test_every_form_of_reference_means_the_same(registry: Registry, bundle: Path) -> None:
    run_id = record(registry, bundle)
    for _ in range(2):
        registry.register("cpe-forms", run_id, "bundle", tags={})
    registry.promote("cpe-forms", 1, reason="test")
    for reference in (
        "cpe-forms",
        "cpe-forms@champion",
        "cpe-forms/1",
        "models:/cpe-forms@champion",
        "models:/cpe-forms/1",
    ):
        assert registry.resolve(reference).version == 1
    assert registry.resolve("cpe-forms/1").aliases == ("champion",)
    assert registry.resolve("cpe-forms/2").aliases == ()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("cpe-listed@champoin", r"no alias 'champoin'; its aliases: champion \(version 2\).*; its versions: 1, 2"),
        ("models:/cpe-listed/9", r"no version 9; its aliases: champion \(version 2\).*; its versions: 1, 2"),
        (
            "cpe-lsited",
            r"no model 'cpe-lsited' with a version; did you mean 'cpe-listed'\? registered are: .*cpe-listed",
        ),
        ("listed", r"no model 'listed' with a version; did you mean 'cpe-listed'\? registered are: .*cpe-listed"),
        ("it's odd", r"no model .* registered are: .*cpe-listed"),
        ("cpe-listed/latest", "reference must be name, name@alias or name/3"),
        ("runs:/abc/bundle", "reference must be"),
        ("", "reference must be"),
    ],
)
def test_an_unknown_reference_says_what_there_is(
    registry: Registry, bundle: Path, reference: str, message: str
) -> None:
    if registry.find("cpe-listed", "test", "listed") is None:
        run_id = record(registry, bundle)
        for _ in range(2):
            registry.register("cpe-listed", run_id, "bundle", tags={"test": "listed"})
        registry.promote("cpe-listed", 2, reason="test")
    with pytest.raises(RegistryError, match=message):
        registry.resolve(reference)


def test_models_lists_ours_newest_first(registry: Registry, bundle: Path) -> None:
    run_id = record(registry, bundle)
    for name in ("cpe-order-b", "cpe-order-a", "cpe-order-b", "other-model"):
        registry.register(name, run_id, "bundle", tags={})
        time.sleep(0.002)
    found = registry.models()
    assert [(each.name, each.version) for each in found[:3]] == [
        ("cpe-order-b", 2),
        ("cpe-order-a", 1),
        ("cpe-order-b", 1),
    ]
    assert found == sorted(found, key=lambda each: each.created_at, reverse=True)
    assert all(each.name.startswith("cpe-") for each in found)


def test_fetch_takes_the_places_of_the_environment_and_fetches_once(
    registry: Registry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = record(registry, bundle)
    registry.register("cpe-environment", run_id, "bundle", tags={FILES_HASH: folder_hash(bundle)})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    folder = fetch("cpe-environment")
    assert folder.is_relative_to(tmp_path / "work")
    written = folder.stat().st_mtime_ns
    assert fetch("cpe-environment") == folder
    assert folder.stat().st_mtime_ns == written, "it lies there whole"
    (folder / "gates" / "a.safetensors").write_bytes(b"dog")
    assert folder_hash(fetch("cpe-environment")) == folder_hash(bundle), "a damaged copy is replaced"
    assert folder_hash(fetch("cpe-environment", tmp_path / "copy")) == folder_hash(bundle)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(RegistryError, match="set MLFLOW_TRACKING_URI"):
        fetch("cpe-environment")


def test_fetch_verifies_the_gates_that_a_version_names(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gate, named = open_store(str(tmp_path / "store")), tmp_path / "gate", tmp_path / "named"
    gate.mkdir()
    (gate / "gate.safetensors").write_bytes(b"tiger")
    (gate / "manifest.json").write_text("{}")
    store.put("gates/a1", gate)
    named.mkdir()
    write_manifest(named, {"gates": {"tiger": "a1"}}, {"a1": gate})
    run_id = record(registry, named)
    registry.register("cpe-named", run_id, "bundle", tags={FILES_HASH: folder_hash(named), "store": store.url})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    folder = fetch("cpe-named")
    file = folder / "gates" / "a1" / "gate.safetensors"
    assert file.read_bytes() == b"tiger"
    file.write_bytes(b"tigre")
    assert fetch("cpe-named") == folder
    assert file.read_bytes() == b"tiger"


def test_files_that_are_not_what_was_registered_are_refused(
    registry: Registry, place: Path, bundle: Path, tmp_path: Path
) -> None:
    run_id = record(registry, bundle)
    registry.register("cpe-damaged", run_id, "bundle", tags={FILES_HASH: folder_hash(bundle)})
    assert folder_hash(registry.fetch("cpe-damaged", tmp_path / "whole")) == folder_hash(bundle)
    (kept,) = (place / "files").glob(f"{run_id}/artifacts/bundle/gates/a.safetensors")
    data = kept.read_bytes()
    for damaged in (bytes([data[0] ^ 1]) + data[1:], data[:-1], data + b"x"):
        kept.write_bytes(damaged)
        with pytest.raises(RegistryError, match="are not what was registered: damaged or changed"):
            registry.fetch("cpe-damaged", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
    kept.write_bytes(data)
    (kept.parent / "more.safetensors").write_bytes(data)
    with pytest.raises(RegistryError, match="are not what was registered"):
        registry.fetch("cpe-damaged", tmp_path / "copy")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("cannot open http://me:hush@host/x?key=word", "cannot open http://host/x"),
        ("cannot reach me:hush@host:80", "cannot reach host:80"),
        ("me:hush is nobody here", "… is nobody here"),
        ("no option key=word", "no option …"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_whatever_part_of_an_address_an_error_repeats_loses_its_secrets(text: str, safe: str) -> None:
    assert without_credentials(text, "http://me:hush@host/x?key=word") == safe


def test_a_secret_in_an_address_never_reaches_mlflow(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="artifact_root must hold no user or password") as caught:
        Registry(f"sqlite:///{tmp_path}/mlflow.db", artifact_root="s3://me:hush@bucket/x")
    assert "hush" not in str(caught.value)
    assert not (tmp_path / "mlflow.db").exists()


def test_mlflows_own_global_uri_is_neither_used_nor_changed(
    registry: Registry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = mlflow.get_tracking_uri()
    registry.register("cpe-global", record(registry, bundle), "bundle", tags={})
    registry.promote("cpe-global", 1, reason="test")
    assert (registry.fetch("cpe-global@champion", tmp_path / "copy") / "manifest.json").read_text() == "tiger"
    assert mlflow.get_tracking_uri() == before


def test_files_can_lie_in_s3(
    registry: Registry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: str
) -> None:
    from artifacts.stores.s3 import S3Store

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    S3Store("registry-files").client.create_bucket(Bucket="registry-files")
    remote = Registry(registry.tracking_uri, artifact_root="s3://registry-files/mlflow")
    run_id = remote.record_run("in s3", params={}, metrics={}, tags={}, artifacts={"bundle": bundle})
    assert remote.client.get_run(run_id).info.artifact_uri.startswith("s3://registry-files/mlflow")
    remote.register("cpe-s3", run_id, "bundle", tags={})
    folder = remote.fetch("cpe-s3", tmp_path / "copy")
    assert (folder / "gates" / "a.safetensors").read_bytes() == b"tiger" * 100


def test_a_broken_tracking_uri_is_a_clear_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, but long enough to be one")
    (tmp_path / "folder.db").mkdir()
    for uri, message in (
        (f"sqlite:///{tmp_path}/text.db", "is no SQLite database"),
        (f"sqlite:///{tmp_path}/folder.db", "is a folder"),
        (f"sqlite:///{tmp_path}/text.db/below/x.db", "cannot open at .*a file is in the way"),
        ("gopher://host", "cannot open at gopher://host"),
        ("", "tracking_uri is empty"),
    ):
        start = time.monotonic()
        with pytest.raises(RegistryError, match=message):
            Registry(uri)
        assert time.monotonic() - start < 20  # MLflow itself would try for a minute and a half


def test_a_server_that_does_not_answer_is_a_clear_error_soon(bundle: Path) -> None:
    start = time.monotonic()
    with pytest.raises(RegistryError, match=r"at http://127\.0\.0\.1:9: .*check that the MLflow server runs") as caught:
        Registry("http://me:secret-word@127.0.0.1:9").models()
    assert time.monotonic() - start < 60  # by default several minutes
    assert "secret-word" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_mlflow_is_quiet_but_not_mute(registry: Registry) -> None:
    assert logging.getLogger("mlflow.store").getEffectiveLevel() == logging.WARNING
    assert logging.getLogger("alembic.runtime").getEffectiveLevel() == logging.WARNING


def test_the_database_is_where_the_uri_says(registry: Registry, place: Path) -> None:
    with sqlite3.connect(place / "new" / "folder" / "mlflow.db") as database:
        assert database.execute("select count(*) from registered_models").fetchone()


def test_one_result_registered_by_many_at_once_is_one_version(registry: Registry, place: Path, bundle: Path) -> None:
    run_ids = [record(registry, bundle) for _ in range(8)]
    tags = {"bundle": "b", "scores": "s", "list_hash": "h"}

    def register(run_id: str) -> int:
        own = Registry(registry.tracking_uri, artifact_root=str(place / "files"))
        return own.register("cpe-once", run_id, "bundle", tags=tags, once_by=("bundle", "scores", "list_hash"))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(register, run_ids)) == {1}
    assert [each.version for each in registry.versions("cpe-once")] == [1]
    other = registry.register("cpe-once", run_ids[0], "bundle", tags=tags | {"list_hash": "i"}, once_by=tuple(tags))
    assert [each.version for each in registry.versions("cpe-once")] == [other, 1]


def test_a_second_version_of_a_result_left_by_a_kill_is_taken_back_unless_somebody_uses_it(
    registry: Registry, bundle: Path
) -> None:
    run_id, tags = record(registry, bundle), {"bundle": "b", "scores": "s"}
    for _ in range(3):
        registry.register("cpe-twice", run_id, "bundle", tags=tags)
    registry.promote("cpe-twice", 2, reason="by an earlier release")
    found = registry.settle("cpe-twice", tags)
    assert found is not None
    assert found.version == 2
    assert [each.version for each in registry.versions("cpe-twice")] == [2]
    assert registry.settle("cpe-twice", {"bundle": "c"}) is None

"""Versions are read from MLflow's database without MLflow, and are what its own client says."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from artifacts.registry.registry import Registry, RegistryError
from artifacts.registry.sqlite import FORM, is_known, versions_in
from artifacts.registry.versions import MODEL_PREFIX, model_names, versions_of


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two models of ours, one of somebody else's and a prompt; versions with aliases, one deleted."""
    place = tmp_path_factory.mktemp("reading")
    registry = Registry(f"sqlite:///{place}/mlflow.db", artifact_root=str(place / "files"))
    (place / "bundle").mkdir()
    (place / "bundle" / "manifest.json").write_text("{}")
    run = registry.record_run("test", params={}, metrics={}, tags={}, artifacts={"bundle": place / "bundle"})
    for name in ("cpe-foxes", "cpe-owls", "somebody-elses"):
        for number in range(3):
            registry.register(name, run, "bundle", tags={"list": f"{name} {number}", "note": "ü 'quoted'"})
    registry.promote("cpe-foxes", 1, reason="first")
    registry.promote("cpe-foxes", 3, reason="better")
    registry.client.delete_model_version("cpe-owls", "2")
    registry.client.create_registered_model("cpe-empty")
    registry.client.register_prompt("cpe-prompt", "a {{noun}}")
    return place / "mlflow.db"


@pytest.mark.parametrize("name", ["cpe-foxes", "cpe-owls", "cpe-empty", "cpe-prompt", "somebody-elses", "cpe-none"])
def test_a_model_is_read_as_mlflow_reads_it(database: Path, name: str) -> None:
    client = Registry(f"sqlite:///{database}").client
    assert versions_in(database, name=name) == versions_of(client, name)


def test_all_of_our_models_are_read_as_mlflow_reads_them(database: Path) -> None:
    registry = Registry(f"sqlite:///{database}")
    names = [name for name in model_names(registry.client) if name.startswith(MODEL_PREFIX)]
    expected = [each for name in names for each in versions_of(registry.client, name)]
    assert len(expected) == 5
    assert versions_in(database, prefix=MODEL_PREFIX) == expected
    assert registry.resolve("cpe-foxes").aliases == ("champion",)


def test_the_form_that_is_known_is_the_one_that_mlflow_makes(database: Path) -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    assert _get_latest_schema_revision() == FORM
    assert is_known(database)


def test_a_database_of_another_form_is_left_to_mlflow(database: Path, tmp_path: Path) -> None:
    other = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as whole, closing(sqlite3.connect(other)) as copy:
        whole.backup(copy)
        copy.execute("UPDATE alembic_version SET version_num = 'another'")
        copy.commit()
    assert versions_in(other, name="cpe-foxes") is None
    with pytest.raises(RegistryError, match="another"):
        Registry(f"sqlite:///{other}").models()


def test_looking_makes_no_database(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert registry.models() == []
    assert registry.champion("cpe-foxes") is None
    assert not (tmp_path / "new").exists()


def loaded_by(database: Path, call: str) -> set[str]:
    """The modules that a call on a registry has loaded in a process of its own."""
    code = (
        "import sys; from artifacts.registry.registry import Registry\n"
        f"registry = Registry('sqlite:///{database}'); registry.{call}; print(*sys.modules)"
    )
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_looking_loads_neither_mlflow_nor_boto3(database: Path) -> None:
    heavy = {"mlflow", "boto3", "botocore", "sqlalchemy"}
    for call in ("models()", "champion('cpe-foxes')", "has_files('cpe-foxes', 3)"):
        assert not heavy & loaded_by(database, call), call
    assert heavy & loaded_by(database, "client.search_registered_models()"), "these would be seen"


def test_a_locked_database_is_left_to_mlflow(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifacts.registry.sqlite.WAIT_S", 0.05)
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert versions_in(database, name="cpe-foxes") is None
        writer.execute("ROLLBACK")
    assert versions_in(database, name="cpe-foxes")

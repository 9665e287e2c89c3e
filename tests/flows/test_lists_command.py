"""`cpe lists new`: asks, checks before it writes, and what it writes can be run."""

import pytest
from typer.testing import CliRunner

from cpe.lists.reading import load_list
from flows.cli.app import app

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    for name in ("CPE_LISTS", "CPE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.slow
def test_what_is_asked_is_checked_costed_and_written(here):
    done = RUNNER.invoke(app, ["lists", "new", "cats"], input="noun\ntiger, leopard\n\n")
    assert done.exit_code == 0, done.output
    written = load_list(here / "lists" / "cats.yaml")
    assert [target.name for target in written.targets] == ["tiger", "leopard"]
    assert "cat" in written.kept, "the nearest of those that the model knows"
    assert "pictures" in done.stdout, "what it costs"
    assert "cpe erase cats" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "noun", "--erase", "tigre", "--keep", "cat"], "does not know the noun 'tigre'"),
        (["--kind", "animal", "--erase", "tiger", "--keep", "cat"], "no kind 'animal'; there are noun,"),
        (["--kind", "noun", "--erase", "tiger", "--keep", "tiger"], "tiger"),
    ],
)
def test_a_wrong_name_is_refused_and_nothing_is_written(here, options, message):
    done = RUNNER.invoke(app, ["lists", "new", "mine", *options])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not (here / "lists").exists()


def test_a_list_that_is_there_stays(here):
    (here / "lists").mkdir()
    (here / "lists" / "mine.yaml").write_text("mine")
    done = RUNNER.invoke(app, ["lists", "new", "mine", "--kind", "noun", "--erase", "tiger", "--keep", "cat"])
    assert done.exit_code == 2
    assert "is there already" in done.stderr
    assert (here / "lists" / "mine.yaml").read_text() == "mine"

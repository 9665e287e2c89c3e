"""What an earlier release stored and registered is used as it is: nothing is trained, drawn or registered again."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpe import Eraser, fetch
from flows.cli.app import app
from flows.erase_and_evaluate import erase_and_evaluate
from helpers.earlier import unpack_earlier
from helpers.faults_servers import on_prefect
from helpers.here import here

RUNNER = CliRunner()


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The earlier work folder, its addresses being where it lies now."""
    monkeypatch.setenv("CPE_WORK", str(unpack_earlier(tmp_path)))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def stored() -> set[str]:
    """What the store holds but for what is noted of a run: its plan, and what it used."""
    found: list[str] = here().store().keys("")
    return {key for key in found if not key.startswith(("plans/", "used/"))}


def test_gates_pictures_scores_and_the_version_of_an_earlier_release_are_used_as_they_are(
    earlier: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = stored()
    with on_prefect(tmp_path_factory):
        results = erase_and_evaluate(str(earlier / "few.yaml"))
    assert results["gates"] == {"trained": 0, "reused": 2}
    assert (results["version"], results["champion"]) == (1, True)
    assert stored() == before


def test_a_version_of_an_earlier_release_is_fetched_loaded_and_shown(earlier: Path) -> None:
    assert set(Eraser.load(fetch("models:/cpe-few@champion")).concepts) == {"rose", "pizza"}
    shown = RUNNER.invoke(app, ["models", "show", "cpe-few@champion"])
    assert shown.exit_code == 0, shown.output
    assert "there" in shown.stdout
    assert RUNNER.invoke(app, ["results", "--list", "few"]).exit_code == 0
    assert RUNNER.invoke(app, ["store", "verify"]).exit_code == 0

"""What a GPU is borrowed for is tried on the CPU: all of it, its clock, and that one part's failure costs that part."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.on_gpu import wheels
from scripts.on_gpu.__main__ import main
from scripts.on_gpu.parts import PARTS

NAMES = [part.name for part in PARTS]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("measured") / "all.json"
    code = main([str(out), "--device", "cpu", "--tiny", "--wheels", str(out.parent)])
    return code, json.loads(out.read_text())


def test_every_part_runs_and_stands_in_one_file(measured):
    code, found = measured
    assert code == 0, {name: found[name].get("failed") for name in NAMES}
    assert all("result" in found[name] for name in NAMES)
    assert found["machine"]["result"]["versions"]["torch"]
    assert [row["gates"] for row in found["drawing_steps"]["result"]["rows"]] == [0, 2, 5]
    assert {(row["batch"], row["gates"]) for row in found["pictures"]["result"]["rows"]} == {
        (batch, gates) for batch in (1, 2) for gates in (0, 2, 5)
    }
    assert [row["concepts"] for row in found["training_benchmark"]["result"]["scaling"]] == [1, 2]


def test_every_precision_and_device_takes_the_same_steps_so_that_they_can_be_compared(measured):
    found = measured[1]
    for row in found["recorded_steps"]["result"].values():
        assert all(0 < row[name]["losses"] < 1e-6 and 0 < row[name]["moved"] < 1e-2 for name in row)
    for apart in found["trained_gates"]["result"]["gates_from_float64"].values():
        assert all(0 < value < 1e-4 for value in apart.values())


def test_attached_gates_act_and_leave_no_trace_in_each_precision(measured):
    for dtype, row in measured[1]["attached"]["result"].items():
        assert row["from_untouched"] > 1e-4, dtype
        assert row["from_hooks"] < row["from_untouched"] / 10, dtype
        assert all(row[name] for name in ("finite", "zero_gates_change_nothing", "detaching_restores")), dtype


def test_a_hundred_gates_are_reckoned_before_they_are_trained(measured):
    result = measured[1]["hundred_gates"]["result"]
    assert set(result["ms_a_step_and_concept"]) == {"first", "later", "search"}
    assert 0.1 < result["reckoned_s"] / result["run_s"] < 10  # a few steps on a busy machine


def test_what_does_not_fit_the_clock_is_skipped_and_said(tmp_path):
    out = tmp_path / "late.json"
    assert main([str(out), "--device", "cpu", "--tiny", "--seconds", "0"]) == 0
    found = json.loads(out.read_text())
    assert all("are left" in found[name]["skipped"] for name in NAMES)


def test_a_part_that_outlasts_the_clock_is_stopped(tmp_path):
    out = tmp_path / "slow.json"
    assert main([str(out), "--device", "cpu", "--tiny", "--seconds", "4", "--parts", "pictures"]) == 1
    found = json.loads(out.read_text())
    assert "when the time was up" in found["pictures"]["failed"]
    assert found["seconds"] < 10


def test_a_failure_is_recorded_and_the_next_part_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    assert main(["--device", "meta", "--tiny", "--parts", "recorded_steps", "machine"]) == 1
    found = json.loads((tmp_path / "on_gpu.json").read_text())
    assert found["recorded_steps"]["failed"]
    assert found["recorded_steps"]["traceback"]
    assert found["machine"]["result"]["device"] == "meta"


def test_without_a_place_for_the_result_nothing_starts(monkeypatch, capsys):
    monkeypatch.delenv("OUT", raising=False)
    with pytest.raises(SystemExit):
        main(["--tiny"])
    assert "give the JSON file to write" in capsys.readouterr().err


def test_wheels_are_those_that_the_project_pins(tmp_path):
    pins = set(Path("constraints.txt").read_text().replace("_", "-").split())
    assert {each.lower() for each in wheels.requirements()} <= pins
    empty = tmp_path / "constraints.txt"
    empty.write_text("diffusers==0.1\n")
    with pytest.raises(ValueError, match=r"constraints\.txt pins no pydantic, .*urllib3"):
        wheels.requirements(empty)


def test_packages_that_are_missing_come_from_the_wheels_and_installed_ones_stay(tmp_path):
    """A process of a run sees a wheel's module, but never one in place of what is installed."""
    with zipfile.ZipFile(tmp_path / "carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "value = 7")
        wheel.writestr("numpy/__init__.py", "raise ImportError('another one')")
    assert wheels.unpack(tmp_path, tmp_path / "site") == ["carried-1-py3-none-any.whl"]
    code = f"import sys; sys.path.append({str(tmp_path / 'site')!r}); import carried, numpy; print(carried.value)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "7\n"
    out = tmp_path / "with.json"
    assert main([str(out), "--device", "cpu", "--tiny", "--wheels", str(tmp_path), "--parts", "machine"]) == 0
    assert json.loads(out.read_text())["wheels"] == ["carried-1-py3-none-any.whl"]

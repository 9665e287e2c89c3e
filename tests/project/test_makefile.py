"""The Makefile finds a fitting Python, and says what to do where there is none, before anything is made."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import PROJECT


def make(*given: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *given], cwd=PROJECT, capture_output=True, text=True, check=False, **options
    )


def python_of(folder: Path, version: str) -> Path:
    """Returns a program that runs a line of Python as if it were of a version."""
    program = folder / f"python{version}"
    line = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 0); exec(sys.argv[1])"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{line}" "$2"\n')
    program.chmod(0o755)
    return program


def test_without_a_fitting_python_it_says_what_to_install(tmp_path):
    done = make("setup", f"VENV={tmp_path / 'venv'}", "PYTHON=")
    assert done.returncode == 2
    assert "none of Python 3.11 3.12 3.13 is here; install one" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_a_python_that_is_not_tested_is_refused_at_once(tmp_path, version):
    done = make("setup", f"VENV={tmp_path / 'venv'}", f"PYTHON={python_of(tmp_path, version)}")
    assert done.returncode == 2
    assert f"is Python {version}, which this project is not tested with" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_first_that_is_there_is_taken(tmp_path):
    python_of(tmp_path, "3.12")
    done = make("--dry-run", "setup", f"VENV={tmp_path / 'venv'}", env={"PATH": f"{tmp_path}:/bin"})
    assert done.returncode == 0, done.stderr
    taken = "python3.11" if Path("/bin/python3.11").exists() else "python3.12"
    assert f"{taken} -m venv" in done.stdout

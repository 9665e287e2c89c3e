"""The public face: what `cpe` hands out, and that it is found beside a user's own modules."""

import subprocess
import sys
from pathlib import Path

import cpe

PUBLIC = [
    "BaseProjections", "ConceptList", "ConceptTexts", "Erased", "Eraser", "PRESETS", "__version__", "detach",
    "encode_prompts", "fetch", "load_list", "load_pipeline", "train",
]  # fmt: skip
COMMAND = Path(sys.executable).with_name("cpe")
OWN = ("tasks", "flows", "artifacts", "wording", "benchmarks", "stack")


def test_the_public_names_are_these_and_all_are_there() -> None:
    assert sorted(cpe.__all__) == dir(cpe) == PUBLIC
    for name in PUBLIC:
        assert getattr(cpe, name) is not None


def test_the_command_says_its_version() -> None:
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == cpe.__version__


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert (Path(cpe.__file__).parent / "py.typed").is_file()


def test_a_folder_with_modules_of_the_same_names_is_no_obstacle(tmp_path: Path) -> None:
    for name in OWN:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the user's own')")
    done = subprocess.run([COMMAND, "models"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no models registered yet" in done.stdout

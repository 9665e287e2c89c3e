"""Which small changes of `cpe` and `artifacts` does no test notice? A sample of them, made by mutmut, each tried.

`MUTANTS` (default 300, or `all`) of them, chosen by `MUTANTS_SEED` (default 0), `MUTANTS_PROCESSES` (default 1) at a
time, over the tests that `[tool.mutmut]` in pyproject.toml leaves; `MUTANTS_ONLY` is a pattern of their names, such as
`cpe.metrics.*`. A mutant is tried on the tests that reach its function, the fastest first, up to `MUTANTS_SECONDS`
(default 30) of them. Everything is written below `mutants/`; run again, it goes on where it was, and tries again what
had survived.
"""

import fnmatch
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path("mutants")
STATS = "mutmut-stats.json"
COLUMNS = ("killed", "survived", "timeout", "no tests")

_reached: dict[str, set[str]] = {}  # mangled names of functions, by fixture


def main() -> None:
    """Makes the mutants, tries the sample, and prints the table and the survivors."""
    from mutmut import __main__ as mutmut
    from mutmut.stats import status_by_exit_code

    results = make()
    wanted = os.environ.get("MUTANTS", "300")
    names = sorted(name for each in results.values() for name in each)
    if only := os.environ.get("MUTANTS_ONLY"):
        names = [name for name in names if fnmatch.fnmatch(name, only)]
    if wanted != "all":
        names = random.Random(int(os.environ.get("MUTANTS_SEED", "0"))).sample(names, min(int(wanted), len(names)))
    codes = {name: code for each in results.values() for name, code in each.items()}
    if left := [name for name in names if status_by_exit_code[codes[name]] not in ("killed", "timeout")]:
        mutmut._run(left, _processes())
    chosen = set(names)
    report({
        path: {name: status_by_exit_code[code] for name, code in each.items() if name in chosen}
        for path, each in read().items()
    })  # fmt: skip


def make() -> dict[str, dict[str, int | None]]:
    """Writes the mutants of all files that changed, and the tests as they are now; returns what `read` does."""
    from mutmut import __main__ as mutmut

    for folder in ("tests", "wording", "tasks", "flows", "stack", "benchmarks", "scripts"):
        shutil.rmtree(FOLDER / folder, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    mutmut.set_mutant_under_test("mutant_generation")
    print("making mutants, for some minutes if there are none yet", flush=True)
    with redirect_stdout(StringIO()):
        mutmut.copy_src_dir()
        mutmut.copy_also_copy_files()
        mutmut.create_mutants(_processes())
    return read()


def read() -> dict[str, dict[str, int | None]]:
    """Exit code of the tests by mutant (None: not tried), by file."""
    from mutmut import __main__ as mutmut

    files = mutmut.collect_source_file_mutation_data(mutant_names=())[1]
    return {path: dict(data.exit_code_by_key) for path, data in sorted(files.items())}


def report(statuses: dict[str, dict[str, str]]) -> None:
    """Prints every mutant that survived, then the table by file."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.utils.format_utils import orig_function_and_class_names_from_key

    for path, each in statuses.items():
        for name in (name for name, status in each.items() if status == "survived"):
            function, owner = orig_function_and_class_names_from_key(name)
            diff = get_diff_for_mutant(name, path=path).splitlines()[2:]
            print(f"\n{path}: {f'{owner}.' if owner else ''}{function} ({name})", *diff, sep="\n")
    print("\n" + _row("file", COLUMNS, "score"))
    for path, each in statuses.items():
        if each:
            print(_line(path, each.values()))
    print(_line("all", [status for each in statuses.values() for status in each.values()]))


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Orders the tests of a mutant by the time they take, and leaves those out that come too late (a pytest hook)."""
    if config.option.collectonly or not Path(STATS).exists():
        return
    seconds = json.loads(Path(STATS).read_text())["duration_by_test"]
    items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
    left = float(os.environ.get("MUTANTS_SECONDS", "30"))
    for count, item in enumerate(items):
        left -= seconds.get(item.nodeid, 0.0)
        if left < 0 and count:
            config.hook.pytest_deselected(items=items[count:])
            del items[count:]
            return


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Any:
    """Notes what a fixture that several tests share reaches: mutmut would count it for the first of them alone."""
    from mutmut.state import state

    before, state()._stats = state()._stats, set()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            _reached[fixturedef.argname] = state()._stats
        state()._stats = before | state()._stats


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: Any) -> None:
    """Counts what shared fixtures reach for each test that has them (a pytest hook, before mutmut's own)."""
    from mutmut.state import state

    state()._stats |= set().union(*(_reached.get(name, ()) for name in item.fixturenames))


def _processes() -> int:
    return int(os.environ.get("MUTANTS_PROCESSES", "1"))


def _line(path: str, statuses: Iterable[str]) -> str:
    counts = Counter(statuses)
    tried = counts["killed"] + counts["survived"]
    score = f"{counts['killed'] / tried:.0%}" if tried else ""
    return _row(path, [str(counts[column]) for column in COLUMNS], score)


def _row(path: str, cells: Iterable[str], score: str) -> str:
    return f"{path:36}" + "".join(f"{cell:>10}" for cell in cells) + f"{score:>8}"


if __name__ == "__main__":
    main()

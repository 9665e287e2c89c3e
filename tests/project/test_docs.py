"""What README and docs tell people to type works as it is written: every block, every command."""

import json
import re
import shlex
import subprocess
import sys
from typing import NamedTuple

import pytest
import yaml
from PIL import Image
from prefect.settings import PREFECT_API_URL
from typer.testing import CliRunner

from cpe.lists.reading import parse_list
from cpe.observers.faces import _people
from cpe.observers.people_program import ProgramObserver
from flows.cli.app import app
from helpers.faults_servers import on_prefect
from helpers.lists import LIST
from helpers.places import PROJECT
from tasks.here.places import Places

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:cpe|make|prefect|python) [^`]+)`")
PLACEHOLDERS = {
    "LIST…": "emoji",
    "LIST": "emoji",
    "PROMPT…": "'a tiger' 'a rose'",
    "PHRASE": "tiger",
    "MODEL": "embedded",
}
RUN_ELSEWHERE = {  # command: the file that runs it, and how it stands there
    "cpe plan celebs": ("tests/tasks/test_plan_command.py", '"celebs"'),
    "cpe erase celebs": ("tests/flows/test_published.py", '"celebs"'),
    "cpe compare emoji": ("tests/flows/test_compare.py", '"compare", str(workplace.path), *METHODS'),
    "cpe compare emoji --json": ("tests/flows/test_compare.py", '"compare", str(workplace.path), *options, "--json"'),
    "cpe lists new NAME": ("tests/flows/test_lists_command.py", '["lists", "new", "cats"]'),
    "cpe serve NAME@champion": ("tests/flows/test_serving.py", '"serve", "cpe-few@champion"'),
    "cpe serve cpe-emoji@champion": ("tests/flows/test_serving.py", '"serve", "cpe-few@champion"'),
    "python -m benchmarks.serving cpe-emoji@champion": ("tests/flows/test_serving.py", "serving.measure("),
    "cpe push NAME@champion REPO": ("tests/flows/test_sharing.py", 'cpe("push", "cpe-few/1", "me/few")'),
    "cpe pull REPO": ("tests/flows/test_sharing.py", 'cpe("pull", "me/few")'),
    "cpe push cpe-emoji@champion me/no-tigers --public": (
        "tests/flows/test_sharing.py",
        'cpe("push", "cpe-few/1", "me/few")',
    ),
    "cpe pull me/no-tigers": ("tests/flows/test_sharing.py", 'cpe("pull", "me/few")'),
    "cpe init": ("tests/project/test_installed.py", '["init", str(tmp_path)]'),
    "cpe demo": ("tests/project/test_installed.py", '["demo"]'),
    "cpe bench": ("tests/project/test_benchmarks.py", '"bench"'),
    "cpe bench --model embedded": ("tests/project/test_benchmarks.py", '"bench"'),
    "cpe ui": ("Makefile", "$(BIN)/cpe ui"),
    "cpe ui emoji": ("tests/flows/test_page_browser.py", 'page_of(places, "few")'),
    "cpe ui emoji --host 192.0.2.7": ("tests/flows/test_page_browser.py", 'page_of(places, "--host", "0.0.0.0"'),
    "cpe ui cpe-emoji@champion --model ./my-sd14": ("tests/flows/test_page.py", '"cpe-few@champion", base_model='),
    "cpe watch --status": ("tests/tasks/test_attempts.py", '["watch", "--status"]'),
    ". work/stack/env": ("scripts/integration.py", ". {self.root}/env"),
    "prefect deployment run erase-and-evaluate/emoji --watch": (
        "scripts/integration.py",
        "prefect deployment run erase-and-evaluate/emoji --watch",
    ),
    "prefect deployment run erase-and-evaluate/celebs --param workers=4": ("tests/flows/test_workers.py", "workers="),
    "prefect work-pool create gpu --type process": (
        "tests/flows/test_orphans.py",
        '"work-pool", "create", "gpu", "--type"',
    ),
    "prefect --no-prompt deploy --all": ("tests/flows/test_orphans.py", '"deploy", "--all"'),
    "prefect deploy": ("tests/flows/test_orphans.py", '"deploy", "--all"'),
    "CUDA_VISIBLE_DEVICES=0 prefect worker start --pool gpu --limit 1": (
        "tests/flows/test_orphans.py",
        '"worker", "start", "--pool", "gpu", "--limit", "1"',
    ),
    "python -m stack status": ("Makefile", "python -m stack status"),
    "python download_model.py": ("docs/celebrity-detector.md", "Giphy/celeb-detection-oss"),  # that project's own
}
STATUS_IS_NEWS = ("cpe status", "cpe doctor", "cpe store verify")  # exit code 1 says that something is to be done
SMALL = {
    **LIST,
    "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 60, "copies": 0}},
    "evaluation": {
        "as_published": True,
        "templates": ["a picture of a {}"],
        "seeds": 1,
        "attacks": ["capitals", "ring-a-bell-soft"],
    },
    "bars": {"erased_accuracy_at_most": 1.0, "tolerance": 1.0, "distance_growth": 100.0, "least_pictures": 1},
}
RUNNER = CliRunner()


class Typed(NamedTuple):
    """A command as a page has it."""

    page: str
    command: str


def blocks(*languages: str) -> list[tuple[str, str]]:
    found = [(page, match) for page in PAGES for match in BLOCK.finditer(page.read_text())]
    return [(page.name, match["text"]) for page, match in found if match["language"] in languages]


def commands() -> list[Typed]:
    """Every command, in the order in which people read them, once a page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(f"(?P<block>{BLOCK.pattern})|{INLINE.pattern}", text, re.DOTALL | re.MULTILINE):
            lines = match["text"].splitlines() if match["block"] else [match[match.re.groups]]
            if match["block"] and match["language"] not in ("", "sh"):
                continue
            found += [Typed(page.name, line) for line in map(_plain, lines) if line]
    return list(dict.fromkeys(found))


def _plain(line: str) -> str:
    """A line as it is typed: without what it says of itself, with something in the place of each placeholder."""
    line = re.sub(r"\s+#.*", "", re.sub(r"\s+", " ", line)).strip()
    line = re.sub(r" \[(?!-)[^]]*\]| \[(--[a-z-]+)\]", lambda match: f" {match[1]}" if match[1] else "", line)
    for name, something in PLACEHOLDERS.items():
        line = re.sub(rf"(?<= ){name}(?= |$)", something, line)
    program = line.split(" ")[0]
    return line if program in ("cpe", "make", "prefect", "python", "export", ".") or "=" in program else ""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A work folder in which `emoji`, small, has two versions, as after a change of the list."""
    patch, work = pytest.MonkeyPatch(), tmp_path_factory.mktemp("work")
    lists = work / "lists"
    lists.mkdir()
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI", "CPE_IDENTITY_COMMAND"):
        patch.delenv(name, raising=False)
    patch.setenv("CPE_LISTS", str(lists))
    patch.chdir(work)  # where `work` is, as in the README
    styles = yaml.safe_load((PROJECT / "lists/emoji-styles.yaml").read_text())
    styles |= {"evaluation": {"templates": ["a horse in the style of {}"], "seeds": 1}}
    styles |= {name: SMALL[name] for name in ("training", "bars")}
    (lists / "emoji-styles.yaml").write_text(yaml.safe_dump(styles))
    with on_prefect(tmp_path_factory):
        patch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
        for targets in (["tiger", "rose"], ["tiger"]):
            (lists / "emoji.yaml").write_text(yaml.safe_dump({**SMALL, "name": "emoji", "targets": targets}))
            done = RUNNER.invoke(app, ["erase", "emoji"])
            assert done.exit_code == 0, done.output
        yield work
    patch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("typed", [each for each in commands() if each.command.startswith("cpe ")], ids=" ".join)
def test_a_command_of_cpe_does_what_the_page_says(typed, workplace):
    if typed.command in RUN_ELSEWHERE:
        return
    words = shlex.split(typed.command)[1:]
    done = RUNNER.invoke(app, words)
    if done.exit_code == 2 and not done.stderr.startswith("cpe: "):  # it lacks what a reader knows to add
        options = [word for word in words if word.startswith("--")]
        done = RUNNER.invoke(app, [word for word in words if word not in options] + ["--help"])
        assert all(option in done.stdout for option in options)
    news = any(typed.command.startswith(each) for each in STATUS_IS_NEWS)
    assert done.exit_code in ((0, 1) if news else (0,)), done.output
    assert "Traceback" not in done.output
    assert done.stdout.strip()


@pytest.mark.parametrize("typed", [each for each in commands() if not each.command.startswith("cpe ")], ids=" ".join)
def test_any_other_command_is_one_that_there_is(typed):
    words = shlex.split(typed.command)
    if typed.command in RUN_ELSEWHERE:
        return
    if words[0] == "make":
        command = ["make", "--dry-run", *words[1:]]
    elif words[0] == "python":
        command = [sys.executable, *words[1:], "--help"]
    else:
        assert words[0] == "export", f"nothing says who runs {typed.command!r}: name it in RUN_ELSEWHERE"
        names = [word.partition("=")[0] for word in words[1:]]
        code = "".join(
            path.read_text() for folder in ("tasks", "artifacts", "flows") for path in (PROJECT / folder).rglob("*.py")
        )
        assert all(f'"{name}"' in code or name == "PREFECT_API_URL" for name in names), names
        return
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("path", "how"), RUN_ELSEWHERE.values(), ids=RUN_ELSEWHERE)
def test_what_is_run_elsewhere_is_run_there(path, how):
    assert how in (PROJECT / path).read_text()


def test_nothing_is_named_as_run_elsewhere_that_no_page_says():
    assert set(RUN_ELSEWHERE) <= {each.command for each in commands()}


@pytest.mark.slow
def test_python_runs_as_it_is_written(workplace, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written = blocks("python")
    assert written
    for page, text in written:
        names: dict = {}
        exec(compile(text, page, "exec"), names)
        assert names["picture"].size == (64, 64)
        assert "tiger" in names["eraser"].concepts
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    assert Places.from_environment().work == workplace / "work"


def test_settings_of_lists_are_read():
    for page, text in blocks("yaml"):
        parse_list(yaml.safe_dump({**LIST, "templates": ["{}, to train on"], **yaml.safe_load(text)})), page


def test_a_detector_may_talk_as_the_page_says(tmp_path):
    hello, dialogue = (text.splitlines() for page, text in blocks("json") if page == "celebrity-detector.md")
    asked, answer = map(json.loads, dialogue)
    program = tmp_path / "detector.py"
    program.write_text(
        "import json, sys\n"
        f"print({hello[0]!r}, flush=True)\n"
        "for line in sys.stdin:\n"
        f"    assert set(json.loads(line)) == {set(asked)}\n"
        f"    print(json.dumps({{**json.loads({dialogue[1]!r}), 'id': json.loads(line)['id']}}), flush=True)\n"
    )
    with ProgramObserver.open([sys.executable, str(program)]) as observer:
        seen = observer.look([Image.new("RGB", (8, 8))], [""])
    assert answer["faces"][0]["name"] in seen["identity"].tolist()


def test_people_lie_where_the_page_says(tmp_path):
    (tree,) = (text for page, text in blocks("") if page == "celebrity-detector.md" and text.startswith("data/"))
    for line in tree.splitlines():
        path = tmp_path / line
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    assert {name: len(files) for name, files in _people(tmp_path / "data/faces").items()} == {"Ann Other": 2, "Bob": 1}

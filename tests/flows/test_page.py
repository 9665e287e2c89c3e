"""The page to try erasing, without its layout: what it draws, who is let in, what it says where something is wrong."""

import asyncio
import base64
import csv
import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image, ImageChops
from typer.testing import CliRunner

from artifacts.registry.registry import RegistryError
from flows.cli.app import app
from flows.page.answers import Answers, setting_of
from flows.page.door import Door, check_token, is_loopback
from helpers.page import FIRST, SECOND, opened_page, page_places
from helpers.tiny_sd14 import save_base
from tasks.here.places import Places
from tasks.page.bench import Asked, Bench, Setting
from tasks.page.changes import promote, take_back
from tasks.page.opening import open_bench
from tasks.page.prompts import MOST_ROWS, draw_pairs, packed, prompts_of, read_rows
from tasks.page.tables import compared, tables_of

RUNNER = CliRunner()
ROSE = Asked("a picture of a rose", 3)
PROMPTS = ("a picture of a rose", "a picture of a pizza")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return page_places(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def bench(places: Places) -> Bench:
    return opened_page(places).bench


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Answers]:
    """A page of this test's own, whose versions it may break."""
    return Answers(opened_page(page_places(tmp_path)), tmp_path)


def same(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is None


def drawn(bench: Bench, setting: Setting, asked: Asked = ROSE, **options: Any) -> Image.Image:
    return bench.draw([asked], setting, **options).pictures[0]


def test_a_gate_erases_as_strongly_as_it_is_set_and_nothing_of_it_stays(bench: Bench) -> None:
    weights = {name: value.clone() for name, value in bench._pipe.unet.state_dict().items()}
    before = drawn(bench, Setting(FIRST), erases=False)
    trained = drawn(bench, Setting(FIRST))
    assert not same(before, trained)
    assert same(drawn(bench, Setting(FIRST, ("rose", "pizza"))), before), "all gates off is the untouched model"
    assert same(drawn(bench, Setting(FIRST, (), {"rose": 0.0, "pizza": 0.0})), before)
    stronger = drawn(bench, Setting(FIRST, ("pizza",), {"rose": 2.0}))
    assert not same(stronger, trained)
    assert same(drawn(bench, Setting(FIRST)), trained), "what was set was for one request"
    assert same(drawn(bench, Setting(FIRST), erases=False), before)
    assert all(torch.equal(value, weights[name]) for name, value in bench._pipe.unet.state_dict().items())


def test_two_visitors_at_once_get_what_each_would_get_alone(bench: Bench) -> None:
    settings = (Setting(FIRST, (), {"rose": 2.0}), Setting(SECOND, ("rose",), {"pizza": 0.25}))
    wishes = [(Asked(prompt, seed), each) for seed, each in enumerate(settings) for prompt in PROMPTS]
    alone = [drawn(bench, setting, asked) for asked, setting in wishes]
    assert not same(alone[0], drawn(bench, Setting(FIRST), wishes[0][0])), "the strength makes a difference"
    heats = [bench.heat(asked.prompt, setting) for asked, setting in wishes]
    start, found = threading.Barrier(len(wishes)), {}

    def visit(number: int) -> None:
        asked, setting = wishes[number]
        start.wait()
        found[number] = drawn(bench, setting, asked), bench.heat(asked.prompt, setting)

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(len(wishes))]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert sorted(found) == list(range(len(wishes)))
    for number, (picture, heat) in found.items():
        assert same(picture, alone[number]), wishes[number]
        assert heat == heats[number]


def test_the_heat_map_tells_tokens_gates_and_strengths(bench: Bench) -> None:
    found = bench.heat("a rose", Setting(FIRST, (), {"rose": 0.5}))
    assert found is not None
    (prompt,) = found.map.prompts
    assert sorted(found.map.gate_names) == ["pizza", "rose × 0.5"]
    assert prompt.tokens[1:3] == ["a", "rose"]
    assert 0 < found.energy < (bench.heat("a rose", Setting(FIRST)) or found).energy
    assert bench.heat("a rose", Setting()) is None
    only = bench.heat("a rose", Setting(FIRST, ("pizza",)))
    assert only is not None
    assert only.map.gate_names == ["rose"]


@pytest.mark.parametrize(
    ("prompt", "seed", "why"),
    [(" ", 0, "write a prompt"), ("a" * 2001, 0, "2,000"), ("a rose", -1, "whole number"), ("a", 2**63, "seed")],
)
def test_what_cannot_be_drawn_is_refused_with_the_reason(prompt: str, seed: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Asked(prompt, seed)


def test_a_version_that_vanished_is_told_in_one_message_and_the_page_goes_on(own: Answers) -> None:
    setting = Setting(SECOND)
    assert own.draw(ROSE.prompt, 0, setting)[0] == ""
    own.places.registry().client.delete_model_version("cpe-few", "2")
    message, pictures, heat = own.draw(ROSE.prompt, 0, setting)
    assert "has no version 2" in message
    assert 'role="alert"' in message
    assert (pictures, heat) == (None, None)
    assert [value for _, value in own.choices()] == [FIRST]
    message, pictures, _ = own.draw(ROSE.prompt, 0, Setting(FIRST))
    assert message == ""
    assert "data:image/png" in pictures


def test_a_broken_version_is_told_in_one_message_and_the_page_goes_on(own: Answers) -> None:
    store = own.places.work / "store" / "gates"
    for gate in store.glob("*/gate.safetensors"):
        gate.write_bytes(gate.read_bytes()[:-1] + b"x")
    message, names, _ = own.gates(FIRST)
    assert names is None
    assert message.count("<p") == 1
    assert "Traceback" not in message
    assert own.draw(ROSE.prompt, 0, Setting(FIRST))[0].count('role="alert"') == 1
    message, pictures, _ = own.draw(ROSE.prompt, 0, Setting())
    assert message == ""
    assert "data:image/png" in pictures


def test_without_any_version_the_page_draws_the_untouched_model(tmp_path: Path) -> None:
    places = Places.from_environment({"CPE_WORK": str(tmp_path / "work"), "CPE_LISTS": str(tmp_path)})
    opened = open_bench(places, None)
    assert opened.first is None
    answers = Answers(opened, tmp_path)
    assert answers.choices() == []
    assert answers.pair() == (None, None)
    message, pictures, heat = answers.draw(ROSE.prompt, 0, setting_of(None, [], [], {}))
    assert message == ""
    assert pictures.count("data:image/png") == 2
    assert "No gates" in heat
    assert "cpe erase" in answers.gallery("erased", 0, Setting(), None)[0]


def test_a_page_is_about_what_it_was_asked_for(places: Places) -> None:
    for named in (None, "few", str(places.lists() / "few.yaml"), "cpe-few", "cpe-few@champion", "models:/cpe-few/1"):
        opened = open_bench(places, named)
        assert (opened.first, opened.bench.base_model, opened.bench.profile.name) == (FIRST, "embedded", "embedded")
        assert [each.version for each in opened.bench.shelf.versions()] == [1, 2]
    assert open_bench(places, "cpe-few/2").first == SECOND
    with pytest.raises(RegistryError, match="cpe-none"):
        open_bench(places, "cpe-none@champion")
    with pytest.raises(ValueError, match="no profile"):
        open_bench(places, "few", profile="none")


def test_a_base_model_of_ones_own_draws_and_gates_that_do_not_fit_it_are_told(places: Places, tmp_path: Path) -> None:
    save_base(tmp_path / "own")
    opened = open_bench(places, "cpe-few@champion", base_model=str(tmp_path / "own"))
    assert (opened.first, opened.bench.profile.name) == (FIRST, "cpe")
    opened.bench.profile = opened.bench.profile.model_copy(update={"steps": 1, "height": 64, "width": 64})
    answers = Answers(opened, tmp_path)
    assert [value for _, value in answers.choices()] == [FIRST, SECOND]
    message, pictures, _ = answers.draw(ROSE.prompt, 0, Setting(FIRST))
    assert message.count('role="alert"') == 1
    assert pictures is None
    message, pictures, _ = answers.draw(ROSE.prompt, 0, Setting())
    assert message == ""
    assert pictures.count("data:image/png") == 2


def test_the_gallery_has_the_lists_erased_and_kept_prompts(bench: Bench) -> None:
    taken = bench.shelf.take(FIRST)
    erased, count = prompts_of(taken.concepts, bench.concepts(FIRST), "erased")
    assert sorted(each.prompt for each in erased) == ["a picture of a pizza", "a picture of a rose"]
    assert count == 2
    kept, _ = prompts_of(taken.concepts, bench.concepts(FIRST), "kept")
    assert [each.prompt for each in kept] == ["a picture of a cat"]
    assert prompts_of(None, ["owl"], "erased")[0] == [Asked("a picture of an owl")]


def test_a_batch_comes_from_a_file_and_goes_into_an_archive(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('prompt,seed\na rose,3\n"a pizza, on a table",4\n')
    rows, told = read_rows(path), []
    assert rows == [Asked("a rose", 3), Asked("a pizza, on a table", 4)]
    pairs = list(draw_pairs(bench, rows, Setting(FIRST, ("pizza",)), lambda *done: told.append(done)))
    assert told == [(2, 2)]
    assert same(pairs[1].before, pairs[1].after) or not same(pairs[0].before, pairs[0].after)
    with zipfile.ZipFile(io.BytesIO(packed(pairs, Setting(FIRST, ("pizza",))))) as archive:
        table = list(csv.DictReader(io.StringIO(archive.read("pictures.csv").decode())))
        assert [(row["prompt"], row["seed"]) for row in table] == [(each.prompt, str(each.seed)) for each in rows]
        assert (table[0]["version"], table[0]["off"]) == (FIRST, "pizza")
        picture = Image.open(io.BytesIO(archive.read(table[0]["after"])))
        assert same(picture, pairs[0].after)
    path.write_text("prompt\na rose\n")
    assert read_rows(path) == [Asked("a rose", 0)]


@pytest.mark.parametrize(
    ("text", "why"),
    [("name,seed\nx,1\n", "prompt"), ("prompt,seed\na,b\n", "line 2"), ("prompt\n", "0 prompts"),
     ("prompt\n" + "a rose\n" * (MOST_ROWS + 1), "201 prompts")],
)  # fmt: skip
def test_a_file_that_is_no_batch_is_refused_by_its_own_name_alone(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=why) as refused:
        read_rows(path)
    assert str(refused.value).startswith("mine.csv")


def test_results_bars_and_history_of_a_list_are_told(places: Places) -> None:
    tables = {table.title: table for table in tables_of(places, "few")}
    assert tables["few on embedded, profile embedded"].rows[0][0] == "Accuracy on erased concepts"
    assert tables["Bars"].rows[0][0] == "holds"
    assert [row[:2] for row in tables["History"].rows] == [("2", ""), ("1", "champion")]
    gates, metrics, _ = compared(places, FIRST, SECOND)
    assert ("the same", "rose, pizza") in gates.rows
    assert metrics.rows


def test_a_version_is_promoted_and_taken_back_only_by_whoever_types_its_name(own: Answers) -> None:
    places, registry = own.places, own.places.registry()
    for typed, reason, why in (
        ("", "better", "type cpe-few/2"),
        ("cpe-few", "better", "type"),
        (SECOND, " ", "reason"),
    ):
        with pytest.raises(ValueError, match=why):
            promote(places, SECOND, typed, reason)
    assert "type" in own.promote(SECOND, "yes", "better")[0]
    assert registry.champion("cpe-few").version == 1
    assert "version 2 is champion, version 1 is previous" in own.promote(SECOND, SECOND, "better")[1]
    assert registry.champion("cpe-few").version == 2
    with pytest.raises(ValueError, match="type cpe-few to confirm"):
        take_back(places, "cpe-few", SECOND, "worse")
    assert "version 1 is champion again" in own.take_back(SECOND, "cpe-few", "worse")[1]
    assert registry.champion("cpe-few").version == 1
    assert registry.resolve(SECOND).tags["rolled_back_reason"].startswith("worse (")


def test_settings_for_another_versions_gates_do_not_count() -> None:
    made = setting_of(FIRST, ["rose"], ("rose", "pizza"), {"rose": 0.5, "pizza": 2.0, "owl": 0.1})
    assert made == Setting(FIRST, ("pizza",), {"rose": 0.5})
    assert setting_of(FIRST, ["rose"], ("rose",), {"rose": 1}) == Setting(FIRST)


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True),
                                                ("0.0.0.0", False), ("::", False), ("10.0.0.7", False),
                                                ("example.org", False)])  # fmt: skip
def test_only_the_loopback_needs_no_token(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert check_token(host, "a long secret") == "a long secret"
    if loopback:
        assert check_token(host, None) is None
    else:
        for missing in (None, "", "short"):
            with pytest.raises(ValueError, match="token"):
                check_token(host, missing)


def test_the_command_refuses_another_host_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPE_UI_TOKEN", raising=False)
    done = RUNNER.invoke(app, ["ui", "--host", "0.0.0.0", "--port", "0"])
    assert done.exit_code == 2
    assert "CPE_UI_TOKEN" in done.stderr


def test_a_missing_extra_is_told_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = RUNNER.invoke(app, ["ui", "--port", "0"])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "concept-pinpoint-eraser[ui]" in done.stderr


def test_the_command_line_loads_the_page_only_when_it_is_asked_for() -> None:
    program = "import sys, flows.cli.app; sys.exit(any(each in sys.modules for each in ('gradio', 'torch', 'uvicorn')))"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


async def _behind(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def asked_of(door: Door, address: str, **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door)) as client:
            return await client.get(address, headers=headers)

    return asyncio.run(ask())


def basic(token: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()


def test_nobody_comes_in_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.page.door.PAUSE_S", 0)
    door = Door(_behind, "a long: secret", None)
    wrong = ["Basic %%", "Bearer a long: secret", *(basic(each) for each in ("another", "", "a long: secret "))]
    for headers in ({}, *({"authorization": each} for each in wrong)):
        answer = asked_of(door, "http://here/", **headers)
        assert answer.status_code == 401
        assert "the page" not in answer.text.replace("the page's token", "")
    answer = asked_of(door, "http://here/", authorization=basic("a long: secret"))
    assert (answer.status_code, answer.text) == (200, "the page")
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_on_the_loopback_no_other_name_and_no_other_page_is_answered() -> None:
    door = Door(_behind, None, frozenset({"127.0.0.1"}))
    assert asked_of(door, "http://127.0.0.1:7860/").status_code == 200
    assert asked_of(door, "http://evil.example:7860/").status_code == 403
    assert asked_of(door, "http://127.0.0.1:7860/", origin="http://127.0.0.1:7860").status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert asked_of(door, "http://127.0.0.1:7860/", origin=origin).status_code == 403

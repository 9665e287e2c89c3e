"""`cpe serve`: each answer is its own request's; none is lost, none is drawn without what should erase."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from artifacts.registry.registry import RegistryError
from benchmarks import serving
from cpe.models.drawing import PictureJob, generate
from cpe.terms.profiles import PROFILES
from flows.cli.app import app
from flows.serving.app import Figures, application
from helpers.page import FIRST, SECOND, page_places
from tasks.here.places import Places
from tasks.page.bench import Asked
from tasks.page.shelf import Shelf
from tasks.serving.desk import Closed, Desk, Full
from tasks.serving.following import Following

PROFILE = PROFILES["embedded"].model_copy(update={"steps": 4, "batch": 4})
PROMPTS = ("a picture of a rose", "a picture of a cat", "a pizza", "a castle")


class Unfit:
    """Erases in no pipeline."""

    def attach(self, pipe):
        raise ValueError("trained for another base model")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    return page_places(tmp_path_factory.mktemp("serving"))


@pytest.fixture
def shelf(places) -> Shelf:
    return Shelf(places, base_model="embedded", model="cpe-few")


@pytest.fixture
def desk(places, shelf) -> Iterator[Desk]:
    with Desk(places.loaded("embedded"), PROFILE, most_waiting=64) as desk:
        desk.serve_with(FIRST, shelf.take(FIRST).erased)
        yield desk


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)), float)


def test_many_at_once_get_each_its_own_picture_as_if_it_had_been_alone(places, shelf, desk):
    asked = [Asked(prompt, seed) for seed in range(4) for prompt in PROMPTS]
    answers = [answer.result(120) for answer in [desk.ask(one) for one in asked]]
    assert max(answer.together for answer in answers) > 1
    assert {answer.version for answer in answers} == {FIRST}
    desk.close()
    pipe = places.loaded("embedded")
    with shelf.take(FIRST).erased.attached(pipe):
        alone = [next(generate(pipe, [PictureJob("x", each.prompt, each.seed)], PROFILE))[1] for each in asked]
    for answer, picture in zip(answers, alone, strict=True):
        assert np.abs(pixels(answer.png) - np.asarray(picture, float)).max() <= 2


def test_one_more_than_may_wait_is_refused_and_those_that_wait_are_answered_at_the_end(places, shelf):
    desk = Desk(places.loaded("embedded"), PROFILE, most_waiting=6)
    held = threading.Lock()
    change = desk._change
    desk._change = lambda: (held.acquire() and held.release()) or change()
    desk.serve_with(FIRST, shelf.take(FIRST).erased)
    with held:
        first = desk.ask(Asked("a rose"))
        while desk.waiting:
            time.sleep(0.01)
        waiting = [desk.ask(Asked("a rose", seed)) for seed in range(6)]
        with pytest.raises(Full, match="6 requests wait already"):
            desk.ask(Asked("a rose"))
        ending = threading.Thread(target=desk.close)
        ending.start()
        while not desk._closed:
            time.sleep(0.01)
        with pytest.raises(Closed):
            desk.ask(Asked("a rose"))
    ending.join(120)
    assert all(answer.done() and answer.result().png for answer in (first, *waiting))
    assert not desk.alive


def test_a_version_is_taken_on_between_two_batches_and_nobody_is_dropped(shelf, desk):
    answers = []
    for number in range(24):
        if number == 12:
            desk.serve_with(SECOND, shelf.take(SECOND).erased)
        answers.append(desk.ask(Asked(PROMPTS[number % 4], number)))
    versions = [answer.result(120).version for answer in answers]
    assert set(versions) <= {FIRST, SECOND}
    assert versions[-1] == SECOND
    assert versions == sorted(versions), "never back"


def test_what_cannot_be_put_on_leaves_what_was_and_is_told(desk):
    assert desk.ask(Asked("a rose")).result(60).version == FIRST
    desk.serve_with("cpe-few/9", Unfit())
    assert desk.ask(Asked("a rose")).result(60).version == FIRST
    assert desk.trouble == "cpe-few/9 cannot be served: trained for another base model"
    assert desk.version == FIRST


def test_nothing_is_drawn_without_what_should_erase(places):
    with Desk(places.loaded("embedded"), PROFILE, most_waiting=4) as desk:
        with pytest.raises(RuntimeError, match="nothing is served yet"):
            desk.ask(Asked("a rose")).result(60)
        desk.serve_with("cpe-few/9", Unfit())
        with pytest.raises(RuntimeError, match="cannot be served"):
            desk.ask(Asked("a rose")).result(60)


def test_a_promoted_version_is_followed_and_a_lost_registry_changes_nothing(tmp_path, monkeypatch):
    places = page_places(tmp_path)
    registry, told = places.registry(), []
    shelf = Shelf(places, base_model="embedded", model="cpe-few")
    with Desk(places.loaded("embedded"), PROFILE, most_waiting=4) as desk:
        with Following(desk, shelf, "cpe-few@champion", every=1000, changed=told.append) as following:
            assert desk.version == FIRST
            registry.promote("cpe-few", 2, reason="a test")
            following.look()
            assert desk.version == SECOND
            assert told == [FIRST, SECOND]
            monkeypatch.setattr(shelf, "take", lambda reference: (_ for _ in ()).throw(RegistryError("gone")))
            with pytest.raises(RegistryError):
                following.look()
            assert desk.ask(Asked("a rose")).result(60).version == SECOND
        with pytest.raises(RegistryError):
            Following(desk, shelf, "cpe-few@nobody", every=1000)


def test_over_http(places, shelf, desk):
    async def talk():
        with Following(desk, shelf, "cpe-few@champion", every=1000) as following:
            served = application(desk, following, Figures(desk))
            transport = httpx.ASGITransport(app=served)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                asked = [client.post("/generate", json={"prompt": prompt, "seed": 3}) for prompt in PROMPTS]
                drawn = await asyncio.gather(*asked)
                bad = [
                    await client.post("/generate", json=json)
                    for json in ({}, {"prompt": ""}, {"prompt": "a rose", "seed": -1}, {"prompt": "a rose", "steps": 9})
                ]
                blank = await client.post("/generate", json={"prompt": "   "})
                desk.most_waiting = 0
                full = await client.post("/generate", json={"prompt": "a rose"})
                health, version, metrics = [await client.get(f"/{each}") for each in ("health", "version", "metrics")]
                return drawn, bad, blank, full, health, version, metrics

    drawn, bad, blank, full, health, version, metrics = asyncio.run(talk())
    for answer in drawn:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.headers["X-CPE-Version"] == FIRST
        assert pixels(answer.content).shape == (64, 64, 3)
    assert [answer.status_code for answer in (*bad, blank)] == [422] * 5
    assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
    assert health.json() == {"ok": True, "version": FIRST, "waiting": 0, "trouble": ""}
    assert version.json()["version"] == FIRST
    assert 'cpe_requests_total{status="200"} 4.0' in metrics.text
    assert 'cpe_requests_total{status="503"} 1.0' in metrics.text
    assert "cpe_request_seconds_count 4.0" in metrics.text


def test_other_machines_need_a_token():
    done = CliRunner().invoke(app, ["serve", "cpe-few@champion", "--host", "0.0.0.0", "--port", "0"])
    assert done.exit_code == 2
    assert "CPE_SERVE_TOKEN" in done.stderr


@pytest.mark.slow
def test_a_server_that_is_asked_to_end_answers_those_that_wait(tmp_path):
    places = page_places(tmp_path)
    kept = {name: value for name, value in os.environ.items() if name not in ("CPE_STORE", "MLFLOW_TRACKING_URI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.app", "serve", "cpe-few@champion", "--port", "0"],
        env=kept | {"CPE_WORK": str(places.work), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr.read()

        def ask(number):
            return httpx.post(f"{url}/generate", json={"prompt": PROMPTS[number % 4], "seed": number}, timeout=120)

        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(ask, number) for number in range(16)]
            while httpx.get(f"{url}/health", timeout=60).json()["waiting"] < 4:
                if all(each.done() for each in asked):
                    break
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            answers = [each.result(120) for each in asked]
        assert [answer.status_code for answer in answers] == [200] * 16
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_benchmark_of_serving_checks_every_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("CPE_WORK", str(page_places(tmp_path).work))
    monkeypatch.setattr(serving, "CLIENTS", (1, 4))
    for name in ("CPE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    rows = serving.measure("cpe-few@champion", requests=12)
    assert [row["clients"] for row in rows] == [1, 4]
    for row in rows:
        assert (row["answered"], row["refused"], row["wrong"]) == (12, 0, 0)
        assert 0 < row["median_ms"] <= row["p99_ms"]

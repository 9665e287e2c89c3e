"""The page to try erasing, as people see it: the real command, a real browser."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from helpers.page import FIRST, SECOND, page_places
from helpers.places import PROJECT
from tasks.here.places import Places

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_MS = 180_000
TOKEN = "a token of the tests"
TABS = ("Try", "Gallery", "Compare", "Batch", "Results", "Promote")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "these tests need Chromium on this machine (Debian: apt-get install chromium)"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def page_of(places: Places, *options: str, **environment: str) -> Iterator[str]:
    """Runs `cpe ui` over a work folder, and yields its address."""
    own = {"CPE_WORK": str(places.work), "CPE_LISTS": places.lists_url, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli.app", "ui", *options, "--port", "0"]
    left_out = ("CPE_STORE", "MLFLOW_TRACKING_URI", "CPE_UI_TOKEN")
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    scratch = places.work / "scratch"
    before = set(scratch.iterdir()) if scratch.is_dir() else set()  # of other pages
    running = subprocess.Popen(
        command, cwd=PROJECT, env={**inherited, **own, **environment}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        told = running.stdout.readline()
        found = re.search(r"http://\S+:\d+", told)
        assert found, told
        yield found[0].replace("0.0.0.0", "127.0.0.1")
    finally:
        running.terminate()
        running.wait(60)
        running.stdout.close()
        assert set(scratch.iterdir()) <= before, "what visitors sent and took is gone with the page"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return page_places(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def address(places: Places, browser: Browser) -> Iterator[str]:
    with page_of(places, "few") as found:
        yield found


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens the page for one more visitor; at the end nothing may have gone wrong in any visitor's browser."""
    contexts, wrong = [], []

    def opened(**options: object) -> Page:
        contexts.append(browser.new_context(**options))  # type: ignore[arg-type]
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: None if _is_own(asked.url, address) else wrong.append(asked.url))
        page.goto(address)
        expect(page.get_by_label("rose", exact=True)).to_be_checked()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def _is_own(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", "data:", "blob:"))


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def show(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()


def drawn(page: Page, prompt: str) -> list[str | None]:
    """Draws a prompt, another one than is shown, and returns both pictures."""
    page.locator("#ask").get_by_label("Prompt").fill(prompt)
    press(page, "Draw")
    expect(page.get_by_alt_text(f"After: {prompt}", exact=True)).to_be_visible()
    return [page.get_by_alt_text(f"{when}: {prompt}", exact=True).get_attribute("src") for when in ("Before", "After")]


def message(page: Page) -> Locator:
    return page.get_by_role("alert").filter(visible=True)


def test_before_and_after_which_gates_opened_and_what_switches_do(visit: Callable[..., Page]) -> None:
    page = visit()
    before, after = drawn(page, "a picture of a rose")
    assert before != after
    expect(page.locator(".heat tbody th")).to_have_text(["rose", "pizza"])
    expect(page.locator("#show figcaption").first).to_contain_text(re.compile(r"Before.*\d s"))
    for name in ("rose", "pizza"):
        page.locator("#set").get_by_label(name, exact=True).uncheck()
    again, untouched = drawn(page, "a rose")
    assert again == untouched, "nothing is left that erases"
    page.locator("#set").get_by_label("rose", exact=True).check()
    slider = page.locator("#set input[type=range]")
    slider.focus()
    for _ in range(10):
        slider.press("ArrowLeft")
    expect(page.get_by_text("Set: rose × 0.5, pizza × 0.5")).to_be_visible()
    drawn(page, "a picture of a rose")
    expect(page.locator(".heat tbody th")).to_have_text(["rose × 0.5"])


def test_two_visitors_at_once_do_not_mix(visit: Callable[..., Page]) -> None:
    one, other = visit(), visit()
    alone = [drawn(one, "a picture of a rose"), drawn(other, "a picture of a pizza")]
    other.locator("#set").get_by_label("pizza", exact=True).uncheck()
    for page, prompt in ((one, "a rose"), (other, "a pizza")):
        page.locator("#ask").get_by_label("Prompt").fill(prompt)
        press(page, "Draw")
    for page, prompt in ((one, "a rose"), (other, "a pizza")):
        expect(page.get_by_alt_text(f"After: {prompt}", exact=True)).to_be_visible()
    expect(one.locator(".heat tbody th")).to_have_text(["rose", "pizza"])
    expect(other.locator(".heat tbody th")).to_have_text(["rose"])
    assert drawn(one, "a picture of a rose") == alone[0]
    assert drawn(other, "a picture of a pizza")[1] != alone[1][1]


def test_a_picture_of_the_gallery_is_tried_by_the_keyboard_alone(visit: Callable[..., Page]) -> None:
    page = visit()
    show(page, "Gallery")
    press(page, "Draw the gallery")
    pictures = page.get_by_role("tabpanel").filter(visible=True).locator(".grid-container button")
    expect(pictures).to_have_count(2)
    pictures.nth(1).press("Enter")
    field = page.locator("#ask").get_by_label("Prompt")
    expect(field).to_be_visible()
    expect(field).to_have_value(re.compile("a picture of a (rose|pizza)"))
    field.press("Enter")
    expect(page.locator("#show img")).to_have_count(2)


def test_two_versions_are_compared(visit: Callable[..., Page]) -> None:
    page = visit()
    show(page, "Compare")
    press(page, "Compare")
    panel = page.get_by_role("tabpanel").filter(visible=True)
    expect(panel.locator("img")).to_have_count(3)
    expect(panel.locator("figcaption strong")).to_have_text(["Before", FIRST, SECOND])
    expect(panel.get_by_text("rose, pizza").first).to_be_visible()


def test_a_batch_comes_back_as_an_archive(visit: Callable[..., Page], tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("prompt,seed\na rose,1\na cat,2\n")
    page = visit()
    show(page, "Batch")
    press(page, "Draw the batch")
    expect(message(page)).to_contain_text("choose a CSV file")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "mine.csv")
    expect(page.get_by_text("mine.csv").first).to_be_visible()
    press(page, "Draw the batch")
    link = page.get_by_role("tabpanel").filter(visible=True).locator("a[download]").last
    expect(link).to_have_attribute("download", "pictures.zip")
    with page.expect_download() as download:
        link.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 5


def test_results_and_history_are_there_and_a_promotion_asks_for_the_name(
    visit: Callable[..., Page], places: Places
) -> None:
    page = visit()
    show(page, "Results")
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    show(page, "Promote")
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_label("Reason").fill("a look")
    press(page, "Make it champion")
    expect(message(page)).to_contain_text(f"type {FIRST} to confirm")
    panel.get_by_label("Version").click()
    page.get_by_role("option", name=SECOND).click()
    panel.get_by_label("Confirmation").fill(SECOND)
    press(page, "Make it champion")
    expect(panel.get_by_role("status")).to_contain_text("version 2 is champion")
    assert places.registry().champion("cpe-few").version == 2
    panel.get_by_label("Confirmation").fill("cpe-few")
    press(page, "Roll back to the previous champion")
    expect(panel.get_by_role("status")).to_contain_text("version 1 is champion again")
    assert places.registry().champion("cpe-few").version == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_light_and_dark(visit: Callable[..., Page], scheme: str) -> None:
    page = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    drawn(page, "a picture of a rose")
    for tab in TABS:
        show(page, tab)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    colours = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", colours)[:3])) / 3
    assert brightness < 60 if scheme == "dark" else brightness > 200


def test_a_version_that_vanishes_while_the_page_is_open_is_told_and_the_page_goes_on(
    browser: Browser, tmp_path: Path
) -> None:
    places = page_places(tmp_path)
    with page_of(places, SECOND.replace("/2", "")) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        expect(page.get_by_label("rose", exact=True)).to_be_checked()
        version = page.get_by_label("Version").first
        version.click()
        page.get_by_role("option", name=SECOND).first.click()
        drawn(page, "a picture of a rose")
        places.registry().client.delete_model_version("cpe-few", "2")
        press(page, "Draw")
        expect(message(page)).to_have_count(1)
        expect(message(page)).to_contain_text("has no version 2")
        version.click()
        page.get_by_role("option", name=FIRST).first.click()
        drawn(page, "a picture of a pizza")
        expect(message(page)).to_have_count(0)
        page.close()


def test_another_host_asks_for_the_token(browser: Browser, places: Places) -> None:
    with page_of(places, "--host", "0.0.0.0", CPE_UI_TOKEN=TOKEN) as address:
        for credentials in (None, ("me", "another token")):
            assert httpx.get(address, auth=credentials, timeout=60).status_code == 401
        context = browser.new_context(http_credentials={"username": "me", "password": TOKEN})
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        drawn(page, "a picture of a rose")
        context.close()

"""What is said about a run says no secret, and a report shows every text as text."""

import dataclasses
import logging
import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from artifacts.registry.registry import Registry, RegistryError
from artifacts.report.html import render_report
from artifacts.report.page import Report
from artifacts.stores.folder import FolderStore
from artifacts.stores.opening import open_store
from artifacts.stores.s3 import CONFIG, Config, S3Store
from artifacts.stores.store import StoreError
from flows.cli.app import app
from helpers.fuzz import cases
from helpers.lists import LIST
from helpers.report import Page, full_report

KEY = "gates/3f2a"
MARKER = "MARK3R-of-a-secret"
TOKEN = "T0KEN-of-a-secret"
FIXED = {"role", "unit", "better", "answers", "part"}  # fields of the report that hold one of a few words
HOSTILE = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onmouseover='alert(1)", "</title><script>",
    "</style><style>*{display:none}", "<!--", "-->", "]]>", "{{ 7 * 7 }}", "{% raw %}", "&lt;script&gt;", "&#60;b&#62;",
    "<svg/onload=alert(1)>", "javascript:alert(1)", "url(http://host/)", "</textarea>", "a\nb", "", "\x00", "\ud800",
]  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_", "CPE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MARKER)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "manifest.json").write_text('{"concept": "tiger"}')
    return tmp_path / "gate"


def told(action: Callable[[], Any], kinds: Any, caplog: pytest.LogCaptureFixture) -> str:
    """Returns the message of an action that must fail, once no traceback and no log has been found to hold a secret."""
    with caplog.at_level(logging.INFO), pytest.raises(kinds) as caught:
        action()
    printed = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert str(caught.value) in printed
    assert MARKER not in printed
    assert TOKEN not in printed
    return str(caught.value)


def actions(url: str, endpoint: str | None, folder: Path) -> list[Callable[[], Any]]:
    return [
        lambda: open_store(url, endpoint_url=endpoint).has(KEY),
        lambda: open_store(url, endpoint_url=endpoint).put(KEY, folder),
        lambda: open_store(url, endpoint_url=endpoint).fetch(KEY, folder / "copy"),
        lambda: open_store(url, endpoint_url=endpoint).keys(),
        lambda: open_store(url, endpoint_url=endpoint).delete(KEY),
    ]


def test_no_secret_is_told_when_a_store_fails(
    s3_server: str, gate: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for action in actions("s3://no-such-bucket/x", s3_server, gate):
        assert "the bucket does not exist" in told(action, StoreError, caplog)
    once = CONFIG.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))
    monkeypatch.setattr("artifacts.stores.s3.CONFIG", once)
    for action in actions("s3://bucket/x", "http://127.0.0.1:9", gate):
        assert "the server cannot be reached" in told(action, StoreError, caplog)
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{TOKEN}\n")
    for action in actions("s3://bucket/x", s3_server, gate):
        assert "a credential holds a line break" in told(action, StoreError, caplog)


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchKey", "SlowDown", f"{MARKER} {TOKEN}", MARKER * 100, ""])
def test_what_a_server_says_is_not_repeated(
    s3_server: str, gate: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    store = open_store("s3://bucket/x", endpoint_url=s3_server)
    assert isinstance(store, S3Store)

    def refuse(**_: Any) -> Any:
        said = {"Code": code, "Message": f"you sent {MARKER} and {TOKEN}"}
        raise ClientError({"Error": said, "ResponseMetadata": {"HTTPStatusCode": 400}}, "GetObject")

    for name in ("get_object", "put_object", "delete_object"):
        monkeypatch.setattr(store.client, name, refuse)
    message = told(lambda: store.put(KEY, gate), StoreError, caplog)
    assert len(message) < 300
    assert told(lambda: store.fetch(KEY, gate / "copy"), StoreError, caplog)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        (f"s3://me:{MARKER}@bucket/x", None),
        (f"s3://{MARKER}@bucket/x", None),
        (f"s3:/me:{MARKER}@bucket/x", None),
        (f"s3:me:{MARKER}@bucket/x", None),
        (f"S3://me:{MARKER}@bucket/x", None),
        (f"https://me:{MARKER}@host/x", None),
        (f"file://me:{MARKER}@host/x", None),
        (f"s3://bucket/x?secret={MARKER}", None),
        (f"s3://bucket/x#{MARKER}", None),
        (f"s3://bucket/x/{MARKER}@", None),
        ("s3://bucket", f"http://me:{MARKER}@host:9000"),
        ("s3://bucket", f"http://me:{MARKER}%40host:9000"),
        ("s3://bucket", f"http://host:9000?secret={MARKER}"),
        ("s3://bucket", f"http://host:9000/#{MARKER}"),
        ("s3://bucket", f"http://host:{MARKER}"),
        ("s3://bucket", f"me:{MARKER}@host"),
    ],
)
@pytest.mark.parametrize("from_environment", [False, True])
def test_an_address_with_a_secret_is_refused_without_repeating_it(
    gate: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str, endpoint: str | None,
    from_environment: bool,
) -> None:  # fmt: skip
    if from_environment and endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        endpoint = None
    for action in actions(url, endpoint, gate):
        assert re.search("must be", told(action, ValueError, caplog))
    assert [path.name for path in Path.cwd().iterdir()] == ["gate"], "no folder has that name"


@pytest.mark.parametrize(
    "url", ["relative/store", "./s3:/x", "file://relative/store", "file:///tmp/some%20store/a@b", "x@y/store"]
)
def test_addresses_without_a_secret_are_taken(url: str) -> None:
    assert isinstance(open_store(url), FolderStore)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "https://s3.host-1.example/path", "http://[::1]:7480"])
def test_endpoints_without_a_secret_are_taken(endpoint: str) -> None:
    assert isinstance(open_store("s3://bucket/x", endpoint_url=endpoint), S3Store)


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:{}@127.0.0.1:9",
        "http://{}@127.0.0.1:9",
        "gopher://me:{}@host",
        "http://me:{}/x@127.0.0.1:9",
        "http://me:{}#x@127.0.0.1:9",
        "http:/me:{}@127.0.0.1:9",
        "me:{}@127.0.0.1:9",
        "postgresql://host/db?user=me&password={}",
    ],
)
def test_a_tracking_uri_with_a_password_is_told_without_it(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert re.search("127.0.0.1:9|host", told(lambda: Registry(uri.format(MARKER)).models(), RegistryError, caplog))


def test_a_run_whose_store_fails_tells_and_leaves_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("CPE_STORE", "s3://bucket/x")
    monkeypatch.setenv("CPE_DEBUG", "1")  # the whole traceback
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(LIST))
    done = []

    def run() -> None:
        done.append(CliRunner().invoke(app, ["evaluate", str(tmp_path / "list.yaml")]))
        if done[0].exception is not None:
            raise done[0].exception

    assert "the server cannot be reached" in told(run, StoreError, caplog)
    written = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert written, "the run had begun"
    for text in (done[0].output.encode(), *(path.read_bytes() for path in written)):
        assert MARKER.encode() not in text
        assert TOKEN.encode() not in text


def test_no_secret_gets_into_what_is_stored(s3_server: str, gate: Path, tmp_path: Path) -> None:
    store = open_store("s3://stored/x", endpoint_url=s3_server)
    assert isinstance(store, S3Store)
    store.client.create_bucket(Bucket="stored")
    assert store.put(KEY, gate)
    fetched = store.fetch(KEY, tmp_path / "copy")
    assert (fetched / "manifest.json").read_bytes() == (gate / "manifest.json").read_bytes()
    for path in fetched.iterdir():
        assert MARKER.encode() not in path.read_bytes()
    assert MARKER not in f"{store.url} {vars(store)['where']} {store!r}"


def replaced(value: Any, text: str) -> Any:
    """Returns a part of a report with every text in it replaced; what must stay apart gets a number."""
    if isinstance(value, str):
        return text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.name not in FIXED]
        return dataclasses.replace(value, **{name: replaced(getattr(value, name), text) for name in names})
    if isinstance(value, dict):
        items = enumerate(value.items())
        return {f"{text}{number}": replaced(item, text) for number, (_, item) in items}
    if isinstance(value, list | tuple):
        return [replaced(item, text) for item in value]
    return value


def elements(report: Report) -> set[tuple[str, frozenset[str]]]:
    return {(tag, frozenset(attributes)) for tag, attributes in Page(render_report(report)).elements}


PLAIN = elements(replaced(full_report(), "a" * 30)) | elements(replaced(full_report(), "⟨a\nb"))


@cases(100)
@given(
    text=st.sampled_from(HOSTILE) | st.lists(st.sampled_from(HOSTILE) | st.text(max_size=5), max_size=3).map("".join)
)
def test_a_report_shows_every_text_as_text(text: str) -> None:
    report = replaced(full_report(), text)
    html = render_report(report)
    page = Page(html.encode().decode())
    assert {(tag, frozenset(attributes)) for tag, attributes in page.elements} <= PLAIN
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert re.match("#|$", attributes.get("href", ""))
        assert re.match("data:image/png;base64,|$", attributes.get("src", ""))
        assert tag not in ("script", "iframe", "object", "link", "base", "form")
    shown = " ".join(text.encode(errors="replace").decode().split())
    assert page.text.count(shown) >= 40

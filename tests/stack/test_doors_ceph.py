"""Ceph's S3 door: signed requests with the right key, and nothing else."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from helpers.doors import fetched_by_a_page, needs_browser, only_root_changes_accounts, status_for_nobody
from helpers.ports import free_ports
from stack import servers
from stack.ceph import Ceph
from stack.keys import Keys
from stack.processes import Processes
from stack.settings import CEPH_PROGRAMS, Settings

pytestmark = [
    pytest.mark.slow,
    only_root_changes_accounts,  # Ceph needs root, too
    pytest.mark.skipif(not all(map(shutil.which, CEPH_PROGRAMS)), reason="needs Ceph (docs/operations.md)"),
]
KEY = "/cpe/store/key"
ATTEMPTS = [
    *(("PUT", path) for path in (KEY, "/cpe", "/another")),
    *(("GET", path) for path in (KEY, "/cpe")),
    ("DELETE", KEY),
    ("POST", "/cpe?delete"),
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[Settings, Keys]]:
    place = Path(tempfile.mkdtemp(prefix="cpe-ceph-"))
    names = ("PREFECT", "MLFLOW", "S3", "CEPH")
    ports = {f"CPE_STACK_{name}_PORT": str(port) for name, port in zip(names, free_ports(4), strict=True)}
    settings = Settings.from_environment({"CPE_STACK": str(place / "stack"), "CPE_STACK_S3": "ceph"} | ports).decided()
    processes, store = Processes(settings.root), Ceph(settings, servers.answers)
    try:
        with processes.locked():
            for service in store.services:
                store.prepare(service)
                processes.start(service)
                processes.wait(service)
        keys = store.with_keys(settings.keys())
        servers.make_bucket(settings, keys)
        yield settings, keys
    finally:
        for service in reversed(store.services):
            processes.stop(service.name)
        shutil.rmtree(place)


def objects(settings: Settings, keys: Keys) -> dict[str, bytes]:
    session = boto3.Session(keys.access, keys.secret, region_name="us-east-1")
    client = session.client("s3", endpoint_url=settings.s3_url)
    try:
        assert [each["Name"] for each in client.list_buckets()["Buckets"]] == ["cpe"]
        client.put_object(Bucket="cpe", Key="store/key", Body=b"value")
        listed = client.list_objects_v2(Bucket="cpe").get("Contents", [])
        return {each["Key"]: client.get_object(Bucket="cpe", Key=each["Key"])["Body"].read() for each in listed}
    finally:
        client.close()


def test_another_account_changes_nothing_and_reads_nothing(gateway: tuple[Settings, Keys]) -> None:
    settings, keys = gateway
    assert objects(settings, keys) == {"store/key": b"value"}
    for method, path in ATTEMPTS:
        assert status_for_nobody(settings.s3_port, method, path) in (403, 405), (method, path)
        assert status_for_nobody(settings.s3_port, method, path, host="evil.test") in (403, 404, 405), (method, path)
    assert objects(settings, keys) == {"store/key": b"value"}


@pytest.mark.parametrize(
    ("access", "secret"), [("{access}", "wrong"), ("wrong", "{secret}"), ("{access}", "{secret}x")]
)
def test_a_request_signed_with_another_key_is_refused(gateway: tuple[Settings, Keys], access: str, secret: str) -> None:
    settings, keys = gateway
    given = [text.format(access=keys.access, secret=keys.secret) for text in (access, secret)]
    client = boto3.Session(*given, region_name="us-east-1").client("s3", endpoint_url=settings.s3_url)
    try:
        for act in (client.list_buckets, lambda: client.put_object(Bucket="cpe", Key="store/key", Body=b"")):
            with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId|403"):
                act()
    finally:
        client.close()
    assert objects(settings, keys) == {"store/key": b"value"}


@needs_browser
def test_a_page_changes_nothing_in_a_browser(gateway: tuple[Settings, Keys]) -> None:
    settings, keys = gateway
    requests = [
        (f"http://{host}:{settings.s3_port}{path}", {"method": method, **({"mode": mode} if mode else {})})
        for host in ("127.0.0.1", "localhost")
        for method, path in ATTEMPTS
        for mode in ("", "no-cors")
        if mode == "" or method in ("GET", "POST")
    ]
    told = fetched_by_a_page(requests)
    assert {text for text in told if text != "opaque 0 "} == {"TypeError: Failed to fetch"}
    assert objects(settings, keys) == {"store/key": b"value"}

"""Settings, and the S3 server shared by the tests."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

torch.set_num_threads(1)
if "PYTEST_XDIST_WORKER" in os.environ:  # two processes with one Prefect database would lock each other out
    home = Path(os.environ.get("PREFECT_HOME", "work/prefect")) / os.environ["PYTEST_XDIST_WORKER"]
    home.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(home.absolute())

# The longest files, begun first and in this order, so that no process ends up alone with one of them.
LONGEST = ("test_orphans", "test_faults_kill", "test_workers", "test_faults_store", "test_published",
           "test_faults_servers", "test_flow", "test_compare", "test_attack", "test_docs", "test_doors", "test_clean",
           "test_interrupt", "test_models_command", "test_limits", "test_standing", "test_mending", "test_pipelines",
           "test_companions", "test_models", "test_attached", "test_searches")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server, whose buckets all tests of this process share: moto keeps them for the process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def new_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an empty bucket of this test's own, on the server that the environment names."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return bucket

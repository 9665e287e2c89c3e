"""The stack's other processes: Prefect's server and worker, and MLflow's server."""

import base64
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from stack import door
from stack.keys import Keys
from stack.processes import Processes, Service
from stack.settings import BIN, LOOPBACK, POOL, PROJECT, Settings, StackError, clean_environment

WORKER = "stack"
ANSWER_TIMEOUT_S = 5
OPENER = build_opener(ProxyHandler({}))  # everything is on the loopback


def prefect_server(settings: Settings, keys: Keys) -> Service:
    """Returns Prefect's server; its database is in its home folder."""
    origins = ",".join(f"http://{host}:{settings.prefect_port}" for host in door.HOSTS)
    command = (
        *(sys.executable, "-m", "uvicorn", "--factory", "stack.door:prefect", "--log-level", "warning"),
        *("--host", LOOPBACK, "--port", str(settings.prefect_port)),
    )
    environment = {
        **clean_environment(),
        **settings.prefect_environment(keys),
        "PREFECT_SERVER_API_AUTH_STRING": keys.prefect_pair,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    return Service(
        "prefect",
        command,
        environment,
        lambda: answers(f"{settings.prefect_url}/health"),
        address=settings.prefect_url.removesuffix("/api"),
        data=settings.prefect_data,
        ports={"CPE_STACK_PREFECT_PORT": settings.prefect_port},
        stop_with=signal.SIGINT,
    )


def mlflow_server(settings: Settings, keys: Keys) -> Service:
    """Returns MLflow's server; it alone reads and writes its files in the store, for all clients."""
    data = settings.mlflow_data
    command = (
        *(program("mlflow"), "server", "--host", LOOPBACK, "--port", str(settings.mlflow_port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{data / 'mlflow.db'}", "--serve-artifacts"),
        *("--artifacts-destination", settings.artifacts_url, "--app-name", "cpe-door"),
        *("--allowed-hosts", ",".join(f"{host}:{settings.mlflow_port}" for host in door.HOSTS)),
    )
    environment = {
        **clean_environment(),
        **settings.store_environment(keys),
        door.PASSWORD: keys.mlflow_pair,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if settings.store == "ceph":
        environment["MLFLOW_S3_ENDPOINT_URL"] = settings.s3_url
    return Service(
        "mlflow",
        command,
        environment,
        lambda: answers(f"{settings.mlflow_url}/health"),
        address=settings.mlflow_url,
        data=data,
        ports={"CPE_STACK_MLFLOW_PORT": settings.mlflow_port},
    )


def worker(settings: Settings, keys: Keys) -> Service:
    """Returns the worker that runs deployed flows, one at a time."""
    made = datetime.now(UTC)

    def ready() -> bool:
        try:
            found = ask(f"{settings.prefect_url}/work_pools/{POOL}/workers/filter", keys, {}) or []
        except StackError:
            return False
        heard = [each["last_heartbeat_time"] for each in found if each["name"] == WORKER]
        return any(datetime.fromisoformat(time.replace("Z", "+00:00")) > made for time in heard if time)

    return Service(
        "worker",
        (program("prefect"), "worker", "start", "--pool", POOL, "--limit", "1", "--name", WORKER),
        {**clean_environment(), **settings.client_environment(keys)},
        ready,
        address=f"pool {POOL}, {settings.store_url}, work folder {settings.work}",
        stop_with=signal.SIGINT,
        children_first=True,  # a flow run reports its end; the worker would kill it, and it would seem to run for ever
    )


def deploy(settings: Settings, keys: Keys, processes: Processes) -> None:
    """Makes the work pool and deploys everything in prefect.yaml.

    Raises:
        StackError: Prefect refused.
    """
    commands: list[tuple[str, ...]] = [("deploy", "--all")]
    if ask(f"{settings.prefect_url}/work_pools/{POOL}", keys) is None:
        commands.insert(0, ("work-pool", "create", POOL, "--type", "process"))
    with open(processes.log("deploy"), "wb") as log:
        for command in commands:
            done = subprocess.run(
                (program("prefect"), "--no-prompt", *command),
                env=clean_environment() | settings.prefect_environment(keys),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode != 0:
                raise StackError(f"`prefect {' '.join(command)}` failed: {processes.last_words('deploy')}")


def make_bucket(settings: Settings, keys: Keys) -> None:
    """Makes the bucket unless it is there.

    Raises:
        StackError: the store refused.
    """
    from boto3.session import Session
    from botocore.exceptions import BotoCoreError, ClientError

    session = Session(keys.access, keys.secret, region_name="us-east-1")
    try:
        client = session.client("s3", endpoint_url=settings.s3_url)
        if settings.bucket not in {each["Name"] for each in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=settings.bucket)
    except (BotoCoreError, ClientError) as error:
        code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else type(error).__name__
        raise StackError(f"the store does not make bucket {settings.bucket}: {code}; see its log") from None


def answers(url: str) -> bool:
    """Returns whether an address answers over HTTP without failing."""
    try:
        OPENER.open(url, timeout=ANSWER_TIMEOUT_S).close()
    except HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def ask(url: str, keys: Keys, body: dict[str, Any] | None = None) -> Any:
    """Returns what Prefect's server answers, None if there is no such thing; with a body it is a POST.

    Raises:
        StackError: it does not answer, or refuses.
    """
    data = None if body is None else json.dumps(body).encode()
    token = base64.b64encode(keys.prefect_pair.encode()).decode()
    request = Request(url, data, {"Content-Type": "application/json", "Authorization": f"Basic {token}"})
    try:
        with OPENER.open(request, timeout=ANSWER_TIMEOUT_S) as answer:
            return json.load(answer)
    except HTTPError as error:
        if error.code == 404:
            return None
        raise StackError(f"{url} answers {error.code}; see the server's log") from None
    except OSError as error:
        raise StackError(f"{url} does not answer ({error}); see the server's log") from None


def program(name: str) -> str:
    """Returns the path of a program of this Python environment.

    Raises:
        StackError: it is not installed.
    """
    path = BIN / name
    if not path.exists():
        raise StackError(f"{name} is missing in {BIN.parent}; run `make setup`")
    return str(path)

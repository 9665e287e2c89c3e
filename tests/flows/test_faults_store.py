"""A store that refuses, fills up, goes away or holds damaged gates: runs say what to do, and the next one goes on."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import boto3
import pytest
import requests
import torch
import yaml
from moto.server import ThreadedMotoServer
from safetensors.torch import load_file

from artifacts.stores.opening import open_store
from helpers.faults import LIST, artifacts_in, copied_database, made, registered, wait_for
from helpers.faults_servers import ACCESS_DENIED, INSUFFICIENT_STORAGE, QUOTA_EXCEEDED, Proxy, shared

pytestmark = pytest.mark.slow

MOST_ONCE = {"prompt", "step", "picture", "seen", "stored"}
SECRET = "not-the-right-secret"
BUCKET = "gates"


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return shared(tmp_path_factory).runner


@pytest.fixture(scope="module")
def new_work(tmp_path_factory):
    """Returns a function that makes a work folder with a list in it."""

    def make() -> Path:
        work = tmp_path_factory.mktemp("place") / "work"
        copied_database(shared(tmp_path_factory).database, work)
        (work / "few.yaml").write_text(yaml.safe_dump(LIST))
        return work

    return make


def erase(runner, work: Path, name: str, **environment: str):
    """Runs the list and returns the run and what was made."""
    written = work / f"{name}.made"
    hooks = [["write_down", str(written)]]
    run = runner.start("erase", str(work / "few.yaml"), hooks=hooks, CPE_WORK=str(work), **environment)
    run.wait()
    return run, made(written)


@pytest.fixture(scope="module")
def bucket():
    """A bucket behind a proxy, on a server that checks signatures, and the environment of its user."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    behind = f"http://{host}:{port}"
    anybody = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=behind, **anybody).create_bucket(Bucket=BUCKET)
    iam = boto3.client("iam", endpoint_url=behind, **anybody)
    iam.create_user(UserName="cpe")
    rule = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": rule})
    iam.put_user_policy(UserName="cpe", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="cpe")["AccessKey"]
    proxy = Proxy(port)
    proxy.start()
    requests.post(f"{behind}/moto-api/reset-auth", data=b"0", timeout=10)  # from now on nobody is anybody
    yield (
        proxy,
        {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "CPE_STORE": f"s3://{BUCKET}/cpe",
        },
    )
    requests.post(f"{behind}/moto-api/reset-auth", data=b"inf", timeout=10)
    proxy.stop()
    server.stop()


def putting(part: str, answer, *, after: int = 0):
    """Returns a rule of a proxy: so is answered whoever puts an object there, once some have been let through."""
    seen = []

    def rule(method: str, path: str):
        if method == "PUT" and f"/cpe/{part}/" in path:
            seen.append(path)
            return answer if len(seen) > after else None
        return None

    return rule


REFUSED = {  # what the store does, and what the message says
    "wrong secret": (None, "credentials are missing or refused; set AWS_ACCESS_KEY_ID"),
    "quota": (putting("gates", QUOTA_EXCEEDED, after=3), "quota is used up; delete something"),
    "full": (putting("pictures", INSUFFICIENT_STORAGE, after=1), "the server is full; delete something"),
    "stopped": (None, "the server cannot be reached; check that it runs and that AWS_ENDPOINT_URL is right"),
    "denied": (putting("scores", ACCESS_DENIED, after=2), "credentials are missing or refused"),
}


@pytest.fixture(scope="module")
def refused(runner, bucket, new_work):
    """A list whose runs met one fault after the other, and a last one that met connections that break now and then."""
    proxy, environment = bucket
    work, runs = new_work(), {}
    for name, (rule, _) in REFUSED.items():
        proxy.refuse = rule or (lambda method, path: None)
        if name == "stopped":
            runs[name] = erase_without(proxy, runner, work, environment)
        else:
            secret = {"AWS_SECRET_ACCESS_KEY": SECRET} if name == "wrong secret" else {}
            runs[name] = erase(runner, work, name, **environment | secret)
    proxy.refuse = breaking_off()
    runs["end"] = erase(runner, work, "end", **environment)
    proxy.refuse = lambda method, path: None
    return work, runs, environment


def erase_without(proxy: Proxy, runner, work: Path, environment: dict[str, str]):
    """Does the same with a store that stops before the first look at pictures, and starts again after the run."""
    flag, written = work / "go", work / "stopped.made"
    hooks = [["write_down", str(written)], ["wait_before", "tasks.evaluation.score:look_at", str(flag)]]
    run = runner.start("erase", str(work / "few.yaml"), hooks=hooks, CPE_WORK=str(work), **environment)
    wait_for(Path(f"{flag}.reached").exists, "the first look")
    proxy.stop()
    flag.touch()
    run.wait()
    proxy.start()
    return run, made(written)


def breaking_off():
    """Returns a rule that breaks every first try to put an object; an index arrives, but its answer does not."""
    seen = set()

    def rule(method: str, path: str):
        if method != "PUT" or path in seen:
            return None
        seen.add(path)
        return "lose" if path.endswith("index.json") else "drop"

    return rule


@pytest.mark.parametrize("name", REFUSED)
def test_a_store_that_does_not_take_it_ends_the_run_in_one_message(name, refused):
    _, runs, environment = refused
    run, _ = runs[name]
    assert run.wait() == 2, run.text
    assert REFUSED[name][1] in run.message
    for secret in (SECRET, environment["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in run.text


def test_after_every_refusal_the_next_run_went_on_and_nothing_was_made_twice(refused):
    work, runs, _ = refused
    assert runs["end"][0].wait() == 0, runs["end"][0].text
    counts = sum((each for _, each in runs.values()), Counter())
    assert {what[0] for what in counts} == MOST_ONCE
    assert max(counts.values()) == 1, [what for what, count in counts.items() if count > 1]
    assert registered(work) == [1]


def test_a_store_that_refused_holds_whole_artifacts_only(refused, monkeypatch, tmp_path):
    _, _, environment = refused
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(environment["CPE_STORE"])
    keys = store.keys()
    assert {key.partition("/")[0] for key in keys} == {
        "plans", "used", "gates", "bundles", "pictures", "observations", "scores",
    }  # fmt: skip
    for key in keys:
        store.fetch(key, tmp_path / key)
    names = [item["Key"].removeprefix("cpe/") for item in store.objects()]
    strays = [name for name in names if not any(name.startswith(f"{key}/") for key in keys)]
    assert strays == [], "an upload that failed leaves nothing"


@pytest.fixture
def disk(tmp_path):
    """A very small disk, and a function that mounts it with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("size=100k"):
        pytest.skip("needs the right to mount a file system (root)")
    yield place, mount
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_or_read_only_ends_the_run_and_room_lets_the_next_one_go_on(runner, new_work, disk):
    place, mount = disk
    work = new_work()
    store = place / "store"
    runs = []
    for name, options, message in (
        ("full", "", "the disk is full; free some space and run again"),
        ("read-only", "remount,ro", "the file system is read-only; name another place"),
        ("room", "remount,rw,size=64m", ""),
    ):
        assert not options or mount(options)
        run, counts = erase(runner, work, name, CPE_STORE=store.as_uri())
        runs.append(counts)
        assert run.wait() == (2 if message else 0), run.text
        assert not message or message in run.message
        assert not [path for path in store.rglob(".*") if path.is_dir()], "nothing unfinished is left"
    assert len(list((store / "gates").iterdir())) == 2
    counts = sum(runs, Counter())
    assert {what[0] for what in counts} == MOST_ONCE
    assert max(counts.values()) == 1, [what for what, count in counts.items() if count > 1]


def test_a_disk_that_is_full_at_a_checkpoint_is_named_and_the_training_goes_on_once_there_is_room(
    runner, new_work, disk
):
    place, mount = disk
    work = new_work()
    changes = {"stages": 1, "first_steps": 300}
    (work / "few.yaml").write_text(yaml.safe_dump({**LIST, "training": {"preset": "emoji", "changes": changes}}))
    (work / "checkpoints").symlink_to(place)
    run, _ = erase(runner, work, "full")
    assert run.wait() == 2, run.text
    assert re.search(rf"checkpoint {work}/checkpoints/\w+\.safetensors cannot be written \(.*[Nn]o space", run.message)
    assert "make room there" in run.message
    assert list(place.iterdir()) == [], "nothing half-written"
    assert mount("remount,rw,size=64m")
    run, _ = erase(runner, work, "room")
    assert run.wait() == 0, run.text


def flip(folder: Path) -> None:
    path = folder / "gate.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / "gate.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def spoil_index(folder: Path) -> None:
    (folder / "index.json").write_text((folder / "index.json").read_text().replace("size", "sice", 1))


def test_a_damaged_gate_is_never_used_but_named_moved_away_and_trained_again(runner, new_work):
    work = new_work()
    targets = [{"name": "rose", "aliases": ["red rose"]}, "pizza"]  # of different shapes: each is trained alone
    (work / "few.yaml").write_text(yaml.safe_dump({**LIST, "targets": targets}))
    assert erase(runner, work, "first")[0].wait() == 0
    paths = (work / "store").glob("gates/*/gate.safetensors")
    whole = {path: {name: tensor.clone() for name, tensor in load_file(path).items()} for path in paths}
    untouched = {key: files for key, files in artifacts_in(work).items() if key.startswith("pictures")}
    rose, pizza = sorted({path.parent for path in whole})
    store = open_store(str(work / "store"))
    for number, (damage, folder, said) in enumerate(
        [(flip, rose, "wrong sha256"), (cut, pizza, "bytes instead of"), (spoil_index, rose, "index.json is damaged")]
    ):
        key = f"gates/{folder.name}"
        damage(folder)
        shutil.rmtree(work / "fetched")
        for bundle in store.keys("bundles"):
            store.delete(bundle)  # it has copies of its own
        run, counts = erase(runner, work, f"damaged {number}")
        assert run.wait() == 0, run.text
        assert re.search(rf"cpe: artifact {key} is damaged \(.*{said}.*\): moved to .*damaged.*, made again", run.text)
        assert len([what for what in counts if what[0] == "step"]) == 40, "that gate alone"
    for path, tensors in whole.items():
        again = load_file(path)
        assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items()), "the same gate as before"
    assert untouched.items() <= artifacts_in(work).items()
    assert registered(work) == [1]

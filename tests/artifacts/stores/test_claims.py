"""Of several machines that share a store one does a piece of work; a machine that dies is waited for no longer."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from artifacts.stores.claims import claimed
from artifacts.stores.opening import open_store
from artifacts.stores.store import Store
from helpers.lists import LITTLE

FAST = {"renew_s": 0.2, "patience_s": 2.0, "poll_s": 0.05}


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    return open_store(f"s3://{request.getfixturevalue('new_bucket')}/cpe")


def never() -> bool:
    return False


def put(store: Store, key: str, tmp_path: Path) -> None:
    folder = tmp_path / f"made-{threading.get_ident()}"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    store.put(key, folder)


def test_of_many_machines_one_does_the_work_and_the_others_find_it(store: Store, tmp_path: Path) -> None:
    worked: list[int] = []

    def machine(number: int) -> bool:
        with claimed(store, "gate-x", lambda: store.has("gates/x"), owner=str(number), **FAST) as mine:
            if mine:
                worked.append(number)
                time.sleep(0.5)
                put(store, "gates/x", tmp_path)
            return mine

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(machine, range(6)))
    assert sum(answers) == len(worked) == 1
    assert store.keys("claims") == [], "nothing is left behind"


def test_a_claim_that_is_renewed_is_believed_longer_than_patience(store: Store) -> None:
    ended: list[float] = []
    began = threading.Event()

    def slow() -> None:
        with claimed(store, "gate-x", never, owner="slow", **FAST):
            began.set()
            time.sleep(2 * FAST["patience_s"])
            ended.append(time.monotonic())

    thread = threading.Thread(target=slow)
    thread.start()
    began.wait(30)
    with claimed(store, "gate-x", never, owner="waiting", **FAST) as mine:
        assert mine
        assert ended, "the first was left to finish"
        assert time.monotonic() - ended[0] < FAST["patience_s"], "and what it gave back was not waited for"
    thread.join()


HOLD = """
import sys, time
from artifacts.stores.claims import claimed
from artifacts.stores.opening import open_store
with claimed(open_store(sys.argv[1]), "gate-x", lambda: False, owner=sys.argv[2]):
    print("held", flush=True)
    time.sleep(1000)
"""


def left_by_a_kill(store: Store, owner: str) -> None:
    """Leaves a claim as a process does that is killed: nobody renews it or gives it back."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, store.url, owner], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    process.stdout.close()


def seconds(act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start


def test_a_dead_machines_claim_is_taken_over_after_patience_and_its_own_at_once(store: Store) -> None:
    def take(owner: str) -> None:
        with claimed(store, "gate-x", never, owner=owner, **FAST) as mine:
            assert mine

    left_by_a_kill(store, "dead")
    assert seconds(lambda: take("other")) >= FAST["patience_s"]
    left_by_a_kill(store, "dead")
    assert seconds(lambda: take("dead")) < FAST["patience_s"]


def test_work_that_fails_is_free_for_the_next_at_once(store: Store) -> None:
    with pytest.raises(OSError, match="disk"), claimed(store, "gate-x", never, owner="first", **FAST):
        raise OSError("the disk is full")
    assert store.keys("claims") == []


def test_work_that_is_done_is_not_claimed(store: Store) -> None:
    with claimed(store, "gate-x", lambda: True, owner="first", **FAST) as mine:
        assert not mine
        assert store.keys("claims") == []


TRAIN = """
import sys
import cpe.methods.pinpoint.training
real, count = cpe.methods.pinpoint.training.train, 0
def train(*given, **options):
    global count
    count += 1
    return real(*given, **options)
cpe.methods.pinpoint.training.train = train
from tasks.here.places import Places
from tasks.prepare import prepare_concepts
from tasks.train import train_gates
places = Places.from_environment()
plan = prepare_concepts(places, sys.argv[1])
train_gates(places, plan, ["rose"])
print("trained", count)
"""


@pytest.mark.slow
def test_of_two_machines_with_one_store_one_trains_a_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "little.yaml"
    path.write_text(yaml.safe_dump({**LITTLE, "targets": ["rose"]}))
    monkeypatch.setenv("CPE_STORE", (tmp_path / "store").as_uri())
    started = []
    for name in ("one", "other"):
        monkeypatch.setenv("CPE_WORK", str(tmp_path / name))
        command = [sys.executable, "-c", TRAIN, str(path)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    said = sorted(process.communicate(timeout=300)[0].strip().splitlines()[-1] for process in started)
    assert said == ["trained 0", "trained 1"]
    assert len(open_store(str(tmp_path / "store")).keys("gates")) == 1

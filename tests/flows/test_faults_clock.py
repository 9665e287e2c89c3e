"""A clock that is put back, in the middle of a run and between two: nothing that counts goes by the clock."""

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from artifacts.stores.opening import open_store
from helpers.faults import LIST, Runner, clean_environment, copied_database, made, registered, wait_for
from helpers.faults_servers import shared

pytestmark = pytest.mark.slow

CLOCK = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long back(void) {  /* a day for every byte of a file */
    struct stat found;
    const char *path = getenv("FAULTS_CLOCK");
    return path && stat(path, &found) == 0 ? 86400L * found.st_size : 0;
}

int clock_gettime(clockid_t clock, struct timespec *moment) {
    int failed = syscall(SYS_clock_gettime, clock, moment);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) moment->tv_sec -= back();
    return failed;
}

int gettimeofday(struct timeval *moment, void *zone) {
    int failed = syscall(SYS_gettimeofday, moment, zone);
    if (!failed) moment->tv_sec -= back();
    return failed;
}

time_t time(time_t *moment) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (moment) *moment = now.tv_sec;
    return now.tv_sec;
}
"""
TRAINING = {"preset": "emoji", "changes": {"stages": 1, "first_steps": 300}}


class Clock:
    """A clock for other processes that can be put back.

    Attributes:
        environment: of the processes that see it.
    """

    def __init__(self, folder: Path) -> None:
        self.file, library = folder / "days", folder / "clock.so"
        (folder / "clock.c").write_text(CLOCK)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(folder / "clock.c")], check=True)
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(self.file)}

    def put_back(self) -> None:
        """Makes it a day earlier."""
        with self.file.open("a") as file:
            file.write("x")

    def now(self) -> datetime:
        """Returns what a process sees."""
        command = [sys.executable, "-c", "import datetime; print(datetime.datetime.now().isoformat())"]
        environment = clean_environment(**self.environment)
        seen = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        return datetime.fromisoformat(seen.strip())


@pytest.fixture
def clock(tmp_path):
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler, to give processes a clock of their own")
    return Clock(tmp_path)


def test_a_clock_put_back_between_runs_and_within_one_changes_nothing(clock, tmp_path, tmp_path_factory):
    base = shared(tmp_path_factory)
    work = tmp_path / "work"
    copied_database(base.database, work)
    runner = Runner(tmp_path, {**base.environment, **clock.environment, "CPE_WORK": str(work)})
    path = work / "few.yaml"

    def results() -> dict:
        run = runner.run("results", "--list", "few", "--json")
        return json.loads(run.text)

    try:
        path.write_text(yaml.safe_dump({**LIST, "targets": ["pizza"]}))
        runner.run("erase", str(path))
        before = clock.now()
        assert results()["version"] == 1
        path.write_text(yaml.safe_dump({**LIST, "targets": ["rose"], "training": TRAINING}))
        hooks = [["write_down", str(work / "killed")], ["die_training", 0, "erase", 270]]
        assert runner.start("erase", str(path), hooks=hooks).wait() == -9
        clock.put_back()
        flag = work / "go"
        hooks = [["write_down", str(work / "resumed")], ["wait_before", "tasks.draw:draw_shard", str(flag)]]
        run = runner.start("erase", str(path), hooks=hooks)
        wait_for(Path(f"{flag}.reached").exists, "the drawing")
        clock.put_back()
        assert (before - clock.now()).days >= 1, "positive control: the clock is back"
        flag.touch()
        assert run.wait() == 0, run.text
        steps = sorted(what[-1] for what in made(work / "resumed") if what[0] == "step")
        assert steps == list(range(250, 300)), "from the checkpoint on"
        assert registered(work) == [1, 2]
        latest = results()
        assert latest["version"] == 2
        assert datetime.fromisoformat(latest["finished_at"]).replace(tzinfo=None) < before, "as the clock says"
        assert latest["seconds"]["draw before"] >= 0
        assert "cpe-few version 2" in " ".join(runner.run("results").text.split())
    finally:
        runner.close()


def test_a_clock_that_was_put_back_deletes_no_upload_that_is_under_way(clock, tmp_path, monkeypatch, new_bucket):
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    place = f"s3://{new_bucket}/cpe"
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "manifest.json").write_text("{}")
    store, key = open_store(place), "gates/3f2a"
    assert store.put(key, artifact)
    publish = store._publish

    def delete_meanwhile(key, index):
        """Deletes the key from a machine whose clock is back, between this upload's files and its index."""
        clock.put_back()
        clock.put_back()
        script = f"from artifacts.stores.opening import open_store; print(open_store({place!r}).delete({key!r}))"
        command = [sys.executable, "-c", script]
        environment = clean_environment(**aws, **clock.environment)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"
        return publish(key, index)

    monkeypatch.setattr(store, "has", lambda key: False)
    monkeypatch.setattr(store, "_check_place", lambda key: None)
    monkeypatch.setattr(store, "_publish", delete_meanwhile)
    assert store.put(key, artifact)
    assert (open_store(place).fetch(key, tmp_path / "fetched") / "manifest.json").is_file()

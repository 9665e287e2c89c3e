"""Lists that fail: tried again after longer and longer waits, told of once, shown; on a real Prefect server."""

import json
import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running
from typer.testing import CliRunner

from cpe.lists.reading import load_list
from flows.cli.app import app
from flows.erase_and_evaluate import erase_and_evaluate
from flows.watch_concepts import EVENT, watch_concepts
from helpers.faults import LIST, copied_database, wait_for
from helpers.faults_servers import shared
from tasks.watch.attempts import FAILING, WAITS_MIN, attempts, resource_of
from tasks.watch.runs import last_event

NEW, OLD = "a" * 64, "b" * 64
FAILED, CRASHED, COMPLETED = StateType.FAILED, StateType.CRASHED, StateType.COMPLETED
BAD = {**LIST, "base_model": "/nowhere/model"}


def run(state: StateType, content: str | None = NEW, ago_min: float = 1, **named: str) -> FlowRun:
    """A run that has ended, as the server tells of it."""
    end = datetime.now(UTC) - timedelta(minutes=ago_min)
    return FlowRun(
        id=uuid4(),
        flow_id=uuid4(),
        parameters={"content": content, **(named or {"list": "few"})},
        state=State(type=state, message="why\nand where", timestamp=end),
        state_type=state,
        end_time=end,
    )


def test_a_list_that_fails_is_tried_again_after_longer_and_longer_waits():
    waits = []
    for count in range(6):
        found = attempts([run(FAILED)] * count, "few", NEW)
        assert found.count == count
        waits.append((found.next_at - found.runs[0].end_time).total_seconds() / 60 if found.next_at else 0)
        assert found.waits is (count > 0)
    assert waits == [0, *WAITS_MIN, WAITS_MIN[-1]]
    assert not attempts([run(FAILED, ago_min=11)], "few", NEW).waits
    assert attempts([run(FAILED)], "few", NEW).message == "why"


def test_only_the_last_runs_of_the_list_as_it_stands_count():
    assert attempts([run(FAILED, OLD)], "few", NEW).count == 0
    assert attempts([run(FAILED), run(COMPLETED, OLD), run(FAILED)], "few", NEW).count == 1
    for former in ({}, {"concepts": None}):
        assert attempts([run(FAILED, list="many", **former)], "few", NEW).count == 0
        assert attempts([run(FAILED, list="/lists/few.yaml", **former)], "few", NEW).count == 1
    for given in ({}, {"list": "emoji"}):  # as earlier deployments name it
        assert attempts([run(FAILED, concepts="many", **given)], "few", NEW).count == 0
        assert attempts([run(FAILED, concepts="/lists/few.yaml", **given)], "few", NEW).count == 1


def test_runs_started_by_hand_do_not_count():
    assert attempts([run(FAILED, content=None), run(FAILED)], "few", NEW).count == 1


def test_a_killed_worker_tells_nothing_of_the_list_but_what_kills_every_worker_does():
    assert [attempts([run(CRASHED)] * count, "few", NEW).count for count in range(5)] == [0, 0, 0, 1, 2]
    assert not attempts([run(CRASHED)] * 2, "few", NEW).waits
    assert attempts([run(FAILED), run(CRASHED)], "few", NEW).count == 1


def test_a_run_that_ends_well_and_changes_nothing_is_not_repeated_at_every_tick():
    found = attempts([run(COMPLETED)], "few", NEW)
    assert (found.count, found.waits) == (1, True)
    assert "champion is still not" in found.message


@pytest.fixture
def place(tmp_path, tmp_path_factory, monkeypatch):
    """A folder of lists and a work folder, on a Prefect server where nothing takes up what the watcher asks for."""
    common = shared(tmp_path_factory)
    copied_database(common.database, tmp_path / "work")
    (tmp_path / "lists").mkdir()
    url = common.prefect.url + "/api"
    values = {"CPE_WORK": tmp_path / "work", "CPE_LISTS": tmp_path / "lists", "PREFECT_API_URL": url}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    with temporary_settings({PREFECT_API_URL: url}):
        yield tmp_path / "lists"


def write(place, listed) -> tuple[str, str]:
    """Writes a list of a name of its own, since the server is shared; returns name and content."""
    name = listed.get("name") if listed.get("name") != LIST["name"] else f"list-{uuid4().hex[:8]}"
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**listed, "name": name}))
    return name, load_list(path).content_hash


def tick(name, **settings):
    return watch_concepts([name], listen_s=0, return_state=True, **settings)


def fail(name, content):
    """A run that the watcher asked for, and that fails."""
    assert erase_and_evaluate(name, content=content, return_state=True).is_failed()


def told(name):
    with get_client(sync_client=True) as client:
        return last_event(client, FAILING, resource_of(name))


def test_a_failing_list_is_left_alone_for_a_while_and_people_are_told_once(place):
    name, content = write(place, BAD)
    assert tick(name).result() == [name]
    fail(name, content)
    assert tick(name).result() == []
    first = wait_for(lambda: told(name), "the notice")
    assert (first.payload["list"], first.payload["list_hash"], first.payload["count"]) == (name, content, 1)
    assert "/nowhere/model" in first.payload["message"]
    assert tick(name, waits_min=(0,)).result() == [name]
    fail(name, content)
    assert tick(name).result() == []
    changed, changed_content = write(place, {**BAD, "name": name, "targets": ["rose"]})
    assert (changed, changed_content != content) == (name, True)
    assert tick(name).result() == [name]
    with get_client(sync_client=True) as client:  # events are stored in their order
        wait_for(
            lambda: last_event(client, EVENT, resource_of(name)).payload["list_hash"] == changed_content,
            "the last event",
        )
    assert told(name).id == first.id


def test_a_tick_gives_up_while_an_earlier_one_works(place):
    name, _ = write(place, LIST)
    with get_client(sync_client=True) as client:
        earlier = client.create_flow_run(watch_concepts, parameters={"lists": [name]})
        client.set_flow_run_state(earlier.id, Running())
        later = tick(name)
        assert later.is_cancelled()
        assert later.message == f"Tick {earlier.name} is at work."
        shown = CliRunner().invoke(app, ["watch", name])
        assert (shown.exit_code, shown.stdout) == (1, f"cpe: Tick {earlier.name} is at work.\n")
        client.set_flow_run_state(earlier.id, Completed())
    assert tick(name).result() == [name]


@contextmanager
def deployed(lists):
    """Deploys a watcher of these lists."""
    with get_client(sync_client=True) as client:
        flow = client.create_flow(watch_concepts)
        made = client.create_deployment(flow_id=flow, name="every-ten-minutes", parameters={"lists": lists})
        try:
            yield
        finally:
            client.delete_deployment(made)


def test_a_failing_list_is_shown_with_the_reason_and_the_next_try(place):
    name, content = write(place, BAD)
    fail(name, content)
    shown = CliRunner().invoke(app, ["watch", "--json", name])
    assert shown.exit_code == 1
    (found,) = json.loads(shown.stdout)["lists"]
    assert (found["name"], found["state"], found["in_vain"]) == (name, "fails", 1)
    assert "/nowhere/model" in found["detail"]
    assert datetime.fromisoformat(found["next_try"]) > datetime.now(UTC)
    with deployed([name]):
        table = CliRunner().invoke(app, ["watch", "--status"])
        doctor = CliRunner().invoke(app, ["doctor", "--json"])
    assert table.exit_code == 1
    assert re.search(rf"{name} +│ fails +│ 1 ", table.stdout)
    (check,) = (each for each in json.loads(doctor.stdout)["here"] if each["name"] == "watcher")
    assert not check["there"]
    assert check["found"].startswith(f"list {name} fails: 1 run(s) in vain")


def test_a_list_that_cannot_be_read_fails_the_tick_once_it_has_looked_at_the_others(place):
    good, _ = write(place, LIST)
    (place / "broken.yaml").write_text("name: [")
    state = watch_concepts(["broken", good], listen_s=0, return_state=True)
    assert state.is_failed()
    assert state.message.startswith("list broken cannot be read: ")
    with get_client(sync_client=True) as client:
        assert wait_for(lambda: last_event(client, EVENT, resource_of(good)), "the other list's event")
    shown = CliRunner().invoke(app, ["watch", "--json", "broken", good])
    assert shown.exit_code == 1
    assert [each["state"] for each in json.loads(shown.stdout)["lists"]] == ["cannot be read", "changed"]


def test_the_watcher_is_asked_for_on_its_server_alone(place, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL")
    for more in ([], ["--status"]):
        refused = CliRunner().invoke(app, ["watch", *more])
        assert refused.exit_code == 2
        assert "set PREFECT_API_URL" in refused.stderr
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    undeployed = CliRunner().invoke(app, ["watch"])
    assert undeployed.exit_code == 2
    assert "prefect --no-prompt deploy --all" in undeployed.stderr

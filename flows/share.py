"""Stages shared by several workers: every worker does a part, and whoever asked does what nobody else did."""

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.states import Cancelled

from tasks.plan import Plan
from tasks.share import Stage
from tasks.steps import (
    draw_pictures,
    encode_concepts,
    left_to_do,
    load_plan,
    look_at_pictures,
    pieces,
    plan_training,
    search_texts,
    train_gates,
)

DEPLOYMENT = "work-on-part/gpu"
POLL_S = 2.0
TAKEN_BACK = "done by the run that asked"
PATIENCE_S = 900.0  # a worker that brings nothing new to the store for so long is taken for dead


@flow(name="work-on-part")
def work_on_part(plan: str, stage: Stage, part: int, parts: int) -> State[None] | None:
    """Does one part of a stage for another run; safe to run twice.

    Args:
        plan: address of the stored plan.
        stage: what to do.
        part: which part, from 0.
        parts: how many there are.

    Returns:
        Nothing, or `Cancelled` if whoever asked had taken the part back before this run began.
    """
    if _taken_back():
        return Cancelled(message=TAKEN_BACK)
    do_part(load_plan(plan), stage, part, parts)
    return None


def _taken_back() -> bool:
    """Whether this run was cancelled while a worker was starting its process: Prefect runs it all the same."""
    with get_client(sync_client=True) as client:
        return any(state.is_cancelled() for state in client.read_flow_run_states(UUID(flow_run.id)))


def do_part(plan: Plan, stage: Stage, part: int, parts: int) -> None:
    """Does one part of a stage; what the store holds already is not made again."""
    if stage == "train":
        groups = plan_training(plan, part, parts)
        for group in groups:
            encode_concepts(plan, group)
        for group in groups:
            train_gates(plan, group)
    elif stage == "attack":
        search_texts(plan, part, parts)
    elif stage == "look":
        look_at_pictures(plan, plan.bundle, part, parts)
    else:
        draw_pictures(plan, plan.bundle if stage == "draw after" else None, part, parts)


def share(plan: Plan, address: str, stage: Stage, workers: int) -> None:
    """Does a stage together with other workers of the pool, and returns when all of it is done.

    Parts that no worker has begun by the time that this one has done its own, or whose worker died, are done here: the
    result does not depend on how many workers there are.

    Args:
        plan: the list made ready.
        address: where it is stored.
        stage: what to do.
        workers: how many parts to make of it; 1 asks nobody else.
    """
    asked: dict[int, tuple[FlowRun, list[str]]] = {}
    for part in range(1, workers):
        keys = pieces(plan, stage, part, workers)
        if left_to_do(keys):
            run: Any = run_deployment(
                DEPLOYMENT,
                parameters={"plan": address, "stage": stage, "part": part, "parts": workers},
                timeout=0,
                idempotency_key=f"{flow_run.id}-{address}-{stage}-{part}-{workers}",  # a comparison has several plans
            )
            asked[part] = run, keys
    do_part(plan, stage, 0, workers)
    for part, (run, keys) in asked.items():
        if not _finished(run, keys):
            do_part(plan, stage, part, workers)


def _finished(run: FlowRun, keys: Sequence[str]) -> bool:
    """Waits for another worker's part; False if nobody works on it."""
    left, since = -1, time.monotonic()
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(run.id).state
            if state is None or state.is_final():
                return state is not None and state.is_completed()
            if state.type == StateType.SCHEDULED:  # no worker has it
                client.set_flow_run_state(run.id, Cancelled(message=TAKEN_BACK), force=True)
                return False
            now_left = left_to_do(keys)
            if now_left != left:
                left, since = now_left, time.monotonic()
            elif time.monotonic() - since > PATIENCE_S:
                return False
            time.sleep(POLL_S)

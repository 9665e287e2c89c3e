"""The steps as Prefect tasks: each is a plain function, told the places of the process that runs it.

No task reads the environment but here; a plain function is given the places that its caller means.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from prefect import task

from tasks import draw, embed, prepare, register, share, train
from tasks.attacks import figures, search
from tasks.comparison import ways, write
from tasks.desk import clean, limits
from tasks.evaluation import score
from tasks.here.places import Places
from tasks.report import page
from tasks.watch import events

P = ParamSpec("P")
R = TypeVar("R")


def with_places(function: Callable[Concatenate[Places, P], R]) -> Callable[P, R]:
    """Returns a function without its first argument, `places`: read from the environment at each call."""

    @wraps(function)
    def told(*arguments: P.args, **named: P.kwargs) -> R:
        return function(Places.from_environment(), *arguments, **named)

    signature = inspect.signature(function)
    told.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return told


def _task(function: Callable[Concatenate[Places, P], R], **options: Any) -> Callable[P, R]:
    return task(**options)(with_places(function))


prepare_concepts = _task(prepare.prepare_concepts)
check_limits = _task(limits.check_limits)
store_plan = _task(share.store_plan)
load_plan = _task(clean.load_plan)

plan_training = _task(train.plan_training)
encode_concepts = _task(embed.encode_concepts, retries=1)
train_gates = _task(train.train_gates, retries=1)
assemble_bundle = _task(train.assemble_bundle, retries=2, retry_delay_seconds=2)

attacked = _task(figures.attacked)
search_texts = _task(search.search_texts, retries=1)
attack_figures = _task(figures.attack_figures)

draw_pictures = _task(draw.draw_pictures, retries=1)
look_at_pictures = _task(score.look_at_pictures, retries=1)
measure = _task(score.measure, retries=1)

register_bundle = _task(register.register_bundle, retries=2, retry_delay_seconds=[5, 20])
decide = _task(register.decide, retries=2, retry_delay_seconds=[5, 20])
write_report = _task(page.write_report, retries=1)
save_results = _task(register.save_results)

choose_ways = _task(ways.choose_ways)
write_comparison = _task(write.write_comparison, retries=1)

changed_lists = _task(events.changed_lists, retries=3, retry_delay_seconds=[2, 10, 30])
clean_store = _task(clean.clean_store)

# What a flow asks while it waits, often: no tasks of their own.
pieces = with_places(share.pieces)
left_to_do = with_places(share.left_to_do)

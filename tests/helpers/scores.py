"""Scores written by hand."""

from types import SimpleNamespace

from cpe.lists.bars import Bars


def row(metric, phase, role, value, group="all", unit="share", count=100):
    return {
        "metric": metric, "phase": phase, "role": role, "group": group, "value": value,
        "low": None, "high": None, "count": count, "unit": unit,
    }  # fmt: skip


def plan(domain, kept=True, **bars):
    names = ("erased", "kept") if kept else ("erased",)
    return SimpleNamespace(
        concepts=SimpleNamespace(domain=domain, bars=Bars(**bars)),
        profile=SimpleNamespace(clip_model="openai/clip-vit-base-patch32", features="inception"),
        sets=[SimpleNamespace(name=name) for name in names],
    )

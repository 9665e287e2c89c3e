"""What a method changes of a plan's costs besides training: how pictures are drawn."""

import yaml

from cpe.evaluation.sets import evaluation_sets
from cpe.lists.reading import parse_list
from helpers.lists import LIST
from tasks.desk.cost import Rates, estimate
from tasks.here.places import Places
from tasks.plan import GatePlan, Plan

RATES = Rates(prompt_s=0.0, prompt_bytes=0, concept_s=0.0, picture_s=7.0, look_s=0.0, picture_bytes=0)


def plan_of(tmp_path, **changes):
    listed = parse_list(yaml.safe_dump({**LIST, **changes}))
    gates = [
        GatePlan(concept=target.name, names=(target.name,), surrogate="object", anchors=(), address="0" * 24)
        for target in listed.targets
    ]
    return Plan(
        source="", concepts=listed, fingerprint="f", text_fingerprint="t", gates=tuple(gates), notes=(),
        sets=evaluation_sets(listed, folders=[], data=tmp_path)[0],
    )  # fmt: skip


def test_guidance_where_a_profile_has_none_takes_twice_as_long_after_erasing(tmp_path, monkeypatch):
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("CPE_STORE", raising=False)
    costs = {}
    for method, training in (("negative-prompt", {"preset": "published"}), ("uce", {"preset": "emoji"})):
        plan = plan_of(tmp_path, method=method, training=training)
        rows = estimate(plan, RATES, Places.from_environment())
        costs[method] = {cost.work: cost.seconds / cost.total / 7.0 for cost in rows if "pictures" in cost.work}
        guided = plan_of(tmp_path, method=method, training=training, profile="quick")
        assert guided.drawn_at == guided.profile.guidance_scale
    assert costs["uce"]["pictures after erasing"] == costs["uce"]["pictures before erasing"] == 1
    assert costs["negative-prompt"]["pictures before erasing"] == 1
    assert costs["negative-prompt"]["pictures after erasing"] == 2
    assert plan_of(tmp_path, method="negative-prompt", training={"preset": "published"}).drawn_at == 2.0

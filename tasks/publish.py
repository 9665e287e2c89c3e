"""Results, registration and promotion of a bundle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from prefect import task

from artifacts.report_input import Bar
from artifacts.tables import SCORES, read_table
from tasks.places import Places
from tasks.prepare import Plan
from tasks.show import show_results
from tasks.train import bundle_folder


class Scores:
    """A run's scores, found by what they measure."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self._found = {(r["metric"], r["phase"], r["role"], r["group"]): r for r in rows}

    @classmethod
    def of(cls, places: Places, address: str) -> "Scores":
        """Reads stored scores."""
        return cls(read_table(places.fetched(f"scores/{address}") / "scores.parquet", SCORES))

    def row(self, metric: str, phase: str, role: str, group: str = "all") -> dict[str, Any] | None:
        """Returns one score's row, or None if it was not measured."""
        return self._found.get((metric, phase, role, group))

    def value(self, metric: str, phase: str, role: str, group: str = "all") -> float | None:
        """Returns one score's value, or None if it was not measured."""
        row = self.row(metric, phase, role, group)
        return None if row is None else row["value"]

    def pair(self, metric: str, role: str) -> dict[str, Any]:
        """Returns a score before and after, with its count."""
        after = self.row(metric, "after", role)
        count = 0 if after is None else after["count"]
        return {
            "before": self.value(metric, "before", role),
            "after": self.value(metric, "after", role),
            "count": count,
        }

    def kept_ratio(self, metric: str, role: str = "kept") -> float | None:
        """Returns what is left of a score, as a share of what it was."""
        before, after = self.value(metric, "before", role), self.value(metric, "after", role)
        return None if not before or after is None else after / before


def judge(plan: Plan, scores: Scores) -> list[Bar]:
    """Returns the list's quality bars with what was measured."""
    domain, bars = plan.concepts.domain, plan.concepts.bars
    other = plan.other_domain
    asked = [
        (
            "accuracy on erased concepts",
            bars.erased_accuracy_at_most,
            scores.value(f"{domain}_accuracy", "after", "erased"),
            False,
        ),
        (
            "accuracy on kept concepts, of what it was",
            bars.kept_ratio_at_least,
            scores.kept_ratio(f"{domain}_accuracy"),
            True,
        ),
        ("H0", bars.h0_at_least, scores.value("h0", "after", "all"), True),
        (
            f"{other} accuracy on all prompts, of what it was",
            bars.other_ratio_at_least,
            scores.kept_ratio(f"{other}_accuracy", "all"),
            True,
        ),
    ]
    judged = []
    for name, bound, value, at_least in asked:
        if bound is not None:
            holds = value is not None and (value >= bound if at_least else value <= bound)
            words = f"at {'least' if at_least else 'most'} {100 * bound:.1f} %"
            judged.append(Bar(name, words, value, holds))
    return judged


@dataclass(frozen=True)
class Registered:
    """A bundle in the registry.

    Attributes:
        model: registered name.
        version: its version.
        run_id: the MLflow run that holds the bundle.
        champion: whether it carries that alias now.
        decided: whether it was champion once; then its promotion, or a rollback since, is left alone.
    """

    model: str
    version: int
    run_id: str
    champion: bool
    decided: bool


@task(retries=2, retry_delay_seconds=2)
def register_bundle(plan: Plan, bundle: str, scores_address: str, seconds: Mapping[str, float]) -> Registered:
    """Registers the bundle as `cpe-<list>` with its scores as tags; the same results are registered once."""
    places = Places.from_environment()
    registry, scores = places.registry(), Scores.of(places, scores_address)
    model = plan.concepts.model_name
    existing = registry.find(model, "scores", scores_address)
    if existing is not None:
        found = registry.resolve(f"{model}/{existing}")
        return Registered(model, existing, found.run_id, "champion" in found.aliases, "promoted_at" in found.tags)
    domain = plan.concepts.domain
    metrics = {
        f"{row['metric']}_{row['role']}_{row['phase']}": row["value"] for row in scores.rows if row["group"] == "all"
    }
    metrics |= {f"seconds_{stage}": value for stage, value in seconds.items()}
    short = [bar.name for bar in judge(plan, scores) if not bar.holds]
    tags = {
        "bundle": bundle,
        "scores": scores_address,
        "list": plan.concepts.name,
        "list_hash": plan.concepts.content_hash,
        "base_model": plan.concepts.base_model,
        "profile": plan.profile.name,
        "erased_accuracy": _tag(scores.value(f"{domain}_accuracy", "after", "erased")),
        "kept_accuracy": _tag(scores.value(f"{domain}_accuracy", "after", "kept")),
        "h0": _tag(scores.value("h0", "after", "all")),
        "fell_short": "; ".join(short) or "nothing",
    }
    run_id = registry.record_run(
        f"erase-{plan.concepts.name}",
        params={
            **plan.concepts.training_config.model_dump(exclude={"gate"}),
            **plan.concepts.training_config.gate.model_dump(),
            "targets": ", ".join(gate.concept for gate in plan.gates),
        },
        metrics=metrics,
        tags=tags,
        artifacts={
            "bundle": bundle_folder(places, bundle),
            "scores": places.fetched(f"scores/{scores_address}"),
        },
    )
    number = registry.register(model, run_id, "bundle", tags=tags, description=_description(plan))
    return Registered(model, number, run_id, champion=False, decided=False)


@task(retries=2, retry_delay_seconds=2)
def promote_if_good(plan: Plan, registered: Registered, scores_address: str) -> bool:
    """Makes a new version champion if every bar of its list holds; returns whether it is champion now.

    A version that was champion before is left as it is: if somebody rolled back, running again does not undo it.
    """
    places = Places.from_environment()
    bars = judge(plan, Scores.of(places, scores_address))
    if registered.decided or not bars or not all(bar.holds for bar in bars):
        return registered.champion
    reason = "; ".join(f"{bar.name} {100 * (bar.value or 0):.1f} % ({bar.bound})" for bar in bars)
    places.registry().promote(registered.model, registered.version, reason=reason)
    return True


def _tag(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _description(plan: Plan) -> str:
    targets = ", ".join(gate.concept for gate in plan.gates)
    return f"CPE gates that take {targets} out of {plan.concepts.base_model}."


@task
def save_results(
    plan: Plan,
    registered: Registered,
    champion: bool,
    scores_address: str,
    report: str,
    seconds: Mapping[str, float],
    trained: list[list[str]],
) -> dict[str, Any]:
    """Writes a run's figures into the work folder, where `cpe results` finds them, and returns them."""
    places = Places.from_environment()
    scores = Scores.of(places, scores_address)
    domain, other = plan.concepts.domain, plan.other_domain
    count = sum(len(group) for group in trained)
    results: dict[str, Any] = {
        "list": plan.concepts.name,
        "base_model": plan.concepts.base_model,
        "profile": plan.profile.name,
        "domain": domain,
        "other_domain": other,
        "erased": scores.pair(f"{domain}_accuracy", "erased"),
        "kept": scores.pair(f"{domain}_accuracy", "kept"),
        f"{other}": {role: scores.pair(f"{other}_accuracy", role) for role in ("erased", "kept", "all")},
        "h0": scores.value("h0", "after", "all"),
        "clip_score_points": {role: scores.pair("clip_score", role) for role in ("erased", "kept")},
        "fid_embedded_kept": scores.value("fid_embedded", "after", "kept"),
        "kid_embedded_kept": scores.value("kid_embedded", "after", "kept"),
        "gates": {"trained": count, "reused": len(plan.gates) - count},
        "bars": [asdict(bar) for bar in judge(plan, scores)],
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "model": registered.model,
        "version": registered.version,
        "champion": champion,
        "report": report,
        "finished_at": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    folder = places.work / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{results['finished_at'].replace(':', '')}-{plan.concepts.name}.json"
    path.with_suffix(".part").write_text(json.dumps(results, indent=1))
    path.with_suffix(".part").replace(path)
    show_results(results)
    return results


def latest_results(places: Places, name: str | None = None) -> dict[str, Any]:
    """Returns the latest run's figures.

    Args:
        places: where to look.
        name: of a list, or None for any.

    Raises:
        FileNotFoundError: there was no such run here.
    """
    found = sorted((places.work / "results").glob(f"*-{name or '*'}.json"))
    found = [path for path in found if name is None or json.loads(path.read_text())["list"] == name]
    if not found:
        of = f" of list {name!r}" if name else ""
        raise FileNotFoundError(f"no finished run{of} in {places.work}; run `cpe erase {name or 'emoji'}` first")
    return json.loads(found[-1].read_text())

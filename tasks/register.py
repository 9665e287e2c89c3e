"""Results, registration and promotion of a bundle."""

import getpass
import json
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from artifacts.disk import write_whole
from artifacts.hashing import folder_hash
from artifacts.registry.versions import FILES_HASH, STORE
from tasks.card import CARD, model_card
from tasks.figures import Scores, accuracy_metric, as_results, figures
from tasks.here.places import Places
from tasks.plan import Plan
from tasks.promotion.bars import judge
from tasks.promotion.verdict import verdict
from tasks.show import show_results
from tasks.watch.standing import AGAINST, FELL_SHORT, FINISHED, RESULT, against

LONGEST_NAMES = 2000  # characters of erased concepts' names in a tag
MOMENT = "%Y-%m-%dT%H%M%S.%f%z"


@dataclass(frozen=True)
class Registered:
    """A bundle in the registry.

    Attributes:
        model: registered name.
        version: its version.
        run_id: the MLflow run that holds the bundle.
    """

    model: str
    version: int
    run_id: str


@dataclass(frozen=True)
class Decision:
    """What became of a version.

    Attributes:
        champion: whether it carries that alias now.
        against: what speaks against it; empty for a champion.
    """

    champion: bool
    against: tuple[str, ...] = ()


def register_bundle(
    places: Places, plan: Plan, bundle: str, scores_address: str, seconds: Mapping[str, float]
) -> Registered:
    """Registers the bundle as `cpe-<list>` with its scores as tags; the same results are registered once, anywhere."""
    with places.locked(f"register-{plan.concepts.model_name}"):
        return _register(places, plan, bundle, scores_address, seconds)


def _register(places: Places, plan: Plan, bundle: str, scores_address: str, seconds: Mapping[str, float]) -> Registered:
    registry, scores = places.registry(), Scores.of(places, scores_address)
    model = plan.concepts.model_name
    result = dict(zip(RESULT, (bundle, scores_address, plan.concepts.content_hash), strict=True))
    existing = registry.settle(model, result)
    if existing is not None:
        return Registered(model, existing.version, existing.run_id)
    main = accuracy_metric(plan)
    metrics = {
        f"{row['metric']}_{row['role']}_{row['phase']}": row["value"] for row in scores.rows if row["group"] == "all"
    }
    metrics |= {f"seconds_{stage}": value for stage, value in seconds.items()}
    tags = result | {
        "list": plan.concepts.name,
        "erased": _names(plan),
        "method": plan.method.name,
        "base_model": plan.concepts.base_model,
        "profile": plan.profile.name,
        "erased_accuracy": _tag(scores.value(main, "after", "erased")),
        "kept_accuracy": _tag(scores.value(main, "after", "kept")),
        "h0": _tag(scores.value("h0", "after", "all")),
        "made_by": made_by(),
        FINISHED: "no",
    }
    with places.scratch() as scratch:
        folder = scratch / "bundle"
        shutil.copytree(places.fetched(f"bundles/{bundle}"), folder)
        (folder / CARD).write_text(model_card(plan, scores), encoding="utf-8")
        tags |= {FILES_HASH: folder_hash(folder), STORE: places.store_url}
        run_id = registry.record_run(
            f"erase-{plan.concepts.name}",
            params={
                "method": plan.method.name,
                **_flat(plan.concepts.training_config.model_dump()),
                "targets": ", ".join(gate.concept for gate in plan.gates),
            },
            metrics=metrics,
            tags=tags,
            artifacts={"bundle": folder, "scores": places.fetched(f"scores/{scores_address}")},
        )
    number = registry.register(model, run_id, "bundle", tags=tags, description=_description(plan), once_by=RESULT)
    return Registered(model, number, registry.resolve(f"{model}/{number}").run_id)


def decide(places: Places, plan: Plan, registered: Registered, scores_address: str) -> Decision:
    """Makes a version champion if nothing speaks against it, and records what does.

    What was decided once is decided again by the same rules: a version that was champion before becomes it again when
    its list is what it was. Only a rollback holds its gates back.
    """
    registry = places.registry()
    champion = registry.champion(registered.model)
    if champion is not None and champion.version == registered.version and "promoted_at" in champion.tags:
        return Decision(champion=True)
    judged = verdict(places, plan, Scores.of(places, scores_address), champion)
    if judged.waits:
        return Decision(False, judged.waits)
    is_champion = champion is not None and champion.version == registered.version
    if judged.short and not is_champion:
        tags = {FELL_SHORT: "; ".join(judged.short), AGAINST: against(champion)}
        registry.set_tags(registered.model, registered.version, tags)
        return Decision(False, judged.short)
    registry.promote(registered.model, registered.version, reason="; ".join(judged.evidence))
    registry.set_tags(registered.model, registered.version, {FELL_SHORT: "nothing", AGAINST: ""})
    return Decision(champion=True)


def made_by() -> str:
    """Returns user and machine, for people who ask who did this."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _tag(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _names(plan: Plan) -> str:
    """Returns the erased concepts' names, cut where a tag would be."""
    names = [gate.concept for gate in plan.gates]
    shown = [name for index, name in enumerate(names) if sum(map(len, names[:index])) < LONGEST_NAMES]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(shown) < len(names) else "")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with those of their groups beside them."""
    single = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    groups = [value for value in settings.values() if isinstance(value, dict)]
    return {**single, **{name: value for group in groups for name, value in group.items()}}


def _description(plan: Plan) -> str:
    return f"{plan.method.title} that take {_names(plan)} out of {plan.concepts.base_model}."


def save_results(
    places: Places,
    plan: Plan,
    registered: Registered,
    decision: Decision,
    scores_address: str,
    report: str,
    seconds: Mapping[str, float],
    trained: list[list[str]],
) -> dict[str, Any]:
    """Writes a run's figures into the work folder, where `cpe results` finds them, and returns them."""
    scores = Scores.of(places, scores_address)
    main = accuracy_metric(plan)
    count = sum(len(group) for group in trained)
    results: dict[str, Any] = {
        "list": plan.concepts.name,
        "method": plan.method.name,
        "base_model": plan.concepts.base_model,
        "profile": plan.profile.name,
        "domain": plan.concepts.domain,
        "erased": scores.pair(main, "erased"),
        "kept": scores.pair(main, "kept"),
        "h0": scores.value("h0", "after", "all"),
        "figures": [as_results(figure) for figure in figures(plan, scores)],
        "published": [each.model_dump() for each in plan.concepts.published],
        "holes": holes_of(places, scores_address),
        "gates": {"trained": count, "reused": len(plan.gates) - count},
        "bars": [asdict(bar) for bar in judge(plan, scores)],
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "model": registered.model,
        "version": registered.version,
        "champion": decision.champion,
        "fell_short": list(decision.against),
        "report": report,
        "finished_at": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    folder = places.work / "results"
    with places.locked("results"):
        path = folder / f"{_moment_after_all(folder)}-{plan.concepts.name}.json"
        write_whole(path, json.dumps(results, indent=1))
    registry, version = places.registry(), f"{registered.model}/{registered.version}"
    if registry.resolve(version).tags.get(FINISHED) != "yes":
        registry.set_tags(registered.model, registered.version, {FINISHED: "yes"})
    show_results(results)
    return results


def _moment_after_all(folder: Path) -> str:
    """Returns now, or just after the last run if the clock was put back since: file names tell the order of runs."""
    now = f"{datetime.now(UTC):{MOMENT}}"
    last = max((path.name[: len(now)] for path in folder.glob("*.json")), default="")
    return now if last < now else f"{datetime.strptime(last, MOMENT) + timedelta(microseconds=1):{MOMENT}}"


def holes_of(places: Places, scores_address: str) -> list[str]:
    """Returns what could not be measured, and what it would take."""
    return json.loads((places.fetched(f"scores/{scores_address}") / "detail.json").read_text())["holes"]


def latest_results(places: Places, name: str | None = None) -> dict[str, Any]:
    """Returns the latest run's figures.

    Args:
        places: where to look.
        name: of a list, or None for any.

    Raises:
        FileNotFoundError: there was no such run here, or what it wrote is damaged.
        RegistryError: which version is champion now cannot be asked.
    """
    damaged = ""
    for path in sorted((places.work / "results").glob(f"*-{name or '*'}.json"), reverse=True):
        try:
            results: dict[str, Any] = json.loads(path.read_text())
            own = name in (None, results["list"])
        except (ValueError, KeyError, TypeError):
            damaged = damaged or f"{path} is damaged"
            continue
        if own:
            if damaged:
                print(f"cpe: {damaged}; shown is the run before it, of {results['finished_at'][:16]}", file=sys.stderr)
            champion = places.registry().champion(results["model"])  # the file knows only how it was when the run ended
            return results | {"champion": champion is not None and champion.version == results["version"]}
    of = f" of list {name!r}" if name else ""
    again = f"run `cpe erase {name or 'emoji'}` " + ("again, which makes only its results anew" if damaged else "first")
    raise FileNotFoundError(f"{damaged or 'no finished run'}{of} in {places.work}; {again}")

"""What no version, no list and no running job needs any more is removed from the store.

Needed is what follows from the registry (versions with an alias and the last few of each model), from the lists as they
are now, and from plans that a run was started with not long ago. Everything else that was stored long enough ago goes,
of the kinds that a run can make again; other kinds are not touched.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from artifacts.hashing import content_hash
from artifacts.registry.registry import ModelVersion
from artifacts.stores.index import MANIFEST_NAME
from artifacts.stores.store import Store
from cpe.lists.reading import load_list
from tasks.attacks.search import hunts
from tasks.draw import shards
from tasks.here.places import Places
from tasks.plan import Plan

KINDS = (  # in the order of removal
    "comparisons", "observations", "scores", "pictures", "attacks", "plans", "used", "bundles", "gates",
)  # fmt: skip
KEEP_VERSIONS = 10
GRACE_DAYS = 14.0


@dataclass
class Cleaning:
    """What is, or would be, removed.

    Attributes:
        kept: keys that something needs, or that are too young.
        removed: keys that nothing needs, and the bytes of each.
        deleted: whether they are gone.
    """

    kept: set[str] = field(default_factory=set)
    removed: dict[str, int] = field(default_factory=dict)
    deleted: bool = False


def load_plan(places: Places, address: str) -> Plan:
    """Reads a stored plan; files of prompts are looked for in this machine's own data folder."""
    values: dict[str, Any] = json.loads(places.store().read_file(f"plans/{address}", "plan.json"))
    for each in values["sets"]:
        if each["csv"] is not None:
            each["csv"] = str(places.data / Path(each["csv"]).name)
    return Plan.model_validate(values)


def mark_used(places: Places, plan: str) -> None:
    """Notes that a run works by a plan today."""
    key = f"used/{plan}/{datetime.now(UTC):%Y%m%d}"
    if not places.store().has(key):
        with places.scratch() as folder:
            (folder / "manifest.json").write_text(json.dumps({"format": 1, "plan": plan}))
            places.store().put(key, folder)


def clean_store(
    places: Places, keep_versions: int = KEEP_VERSIONS, grace_days: float = GRACE_DAYS, *, delete: bool = False
) -> Cleaning:
    """Finds what nothing needs, and removes it if asked to.

    Args:
        places: whose store, registry and lists they are.
        keep_versions: how many versions of each model are kept besides those with an alias.
        grace_days: what was stored, and plans that were used, within so many days stay.
        delete: whether to remove; False only looks.

    Raises:
        ValueError: a number below 0.
        ConceptListError: a list cannot be read: what it needs is not known, so nothing is removed.
        RegistryError: the registry cannot be read, likewise.
        StoreError: the store cannot be read or written.
    """
    if keep_versions < 0 or grace_days < 0:
        raise ValueError(f"keep_versions and grace_days must be 0 or more, got {keep_versions} and {grace_days}")
    store, old = places.store(), datetime.now(UTC) - timedelta(days=grace_days)
    needed, found = _needed(places, keep_versions, old), Cleaning(deleted=delete)
    for kind in KINDS:
        for key in store.keys(kind):
            stored_at = store.stored_at(key)
            if key in needed or stored_at is None or stored_at > old:
                found.kept.add(key)
            else:
                found.removed[key] = store.size_bytes(key)
    if delete and found.removed:
        for key in sorted(_needed(places, keep_versions, old) & set(found.removed)):  # of a run that began meanwhile
            found.kept.add(key)
            del found.removed[key]
        for key in found.removed:
            store.delete(key)
            shutil.rmtree(places.work / "fetched" / content_hash(places.store_url)[:8] / key, ignore_errors=True)
    return found


def _needed(places: Places, keep_versions: int, old: datetime) -> set[str]:
    """Returns the keys of everything that a version, a list or a running job needs."""
    lists = {load_list(path).content_hash for path in sorted(places.lists().glob("*.yaml"))}
    versions = list(_kept_versions(places.registry().models(), keep_versions))
    lists |= {each.tags.get("list_hash", "") for each in versions}
    bundles = {each.tags.get("bundle", "") for each in versions}
    scores = {each.tags.get("scores", "") for each in versions}
    store = places.store()
    used = {key.split("/")[1] for key in store.keys("used") if (store.stored_at(key) or old) > old}
    needed, pictures = {f"scores/{address}" for address in scores}, set()
    for key in store.keys("plans"):
        plan = load_plan(places, key.split("/")[1])
        if key.split("/")[1] in used or {plan.concepts.content_hash, plan.listed_hash} & lists:
            needed.add(key)
            needed |= {f"gates/{gate.address}" for gate in plan.gates}
            bundles.add(plan.bundle)
            needed |= {each.key for each in hunts(plan)}
            pictures |= {shard.address for bundle in (None, plan.bundle) for shard in shards(plan, bundle)}
    stored = set(store.keys("bundles"))
    for key in (f"bundles/{bundle}" for bundle in bundles):
        needed.add(key)
        if key in stored:
            needed |= {f"gates/{address}" for address in _manifest(store, key)["gates"].values()}
    for key in store.keys("scores"):
        of = _manifest(store, key)
        if key in needed or of.get("bundle") in bundles:
            needed.add(key)
            pictures |= {address for part in of.get("pictures", {}).values() for address in part}
    needed |= {f"pictures/{address}" for address in pictures}
    needed |= {key for key in store.keys("attacks") if _manifest(store, key).get("bundle") in bundles}
    needed |= {key for key in store.keys("comparisons") if _manifest(store, key).get("list_hash") in lists}
    needed |= {key for key in store.keys("observations") if _manifest(store, key).get("shard") in pictures}
    return needed


def _manifest(store: Store, key: str) -> dict[str, Any]:
    return dict(json.loads(store.read_file(key, MANIFEST_NAME)))


def _kept_versions(versions: Sequence[ModelVersion], keep: int) -> Iterator[ModelVersion]:
    """Yields the versions with an alias, and the newest of each model."""
    for name in {each.name for each in versions}:
        own = sorted((each for each in versions if each.name == name), key=lambda each: each.version, reverse=True)
        yield from (each for number, each in enumerate(own) if number < keep or each.aliases)

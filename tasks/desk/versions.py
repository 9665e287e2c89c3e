"""What became of a list's bundles: compared, promoted by hand, rolled back; each change is recorded with its reason."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artifacts.registry.registry import ModelVersion
from artifacts.registry.versions import MODEL_PREFIX
from artifacts.stores.store import StoreError
from cpe.lists.reading import ConceptListError, load_list
from tasks.figures import Scores
from tasks.here.places import Places
from tasks.register import made_by

FACTS = ("made_by", "list_hash", "base_model", "profile", "bundle", "fell_short", "promoted_at", "promoted_reason",
         "rolled_back_at", "rolled_back_reason", "lifted_at", "lifted_reason")  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Two versions side by side.

    Attributes:
        versions: the two.
        facts: what is known of each, by name.
        gates: concepts that were added, removed, retrained and kept from the first to the second.
        metrics: name, unit and both values of what was measured over whole sets.
        same_profile: whether the metrics may be compared.
    """

    versions: tuple[ModelVersion, ModelVersion]
    facts: Mapping[str, tuple[str, str]]
    gates: Mapping[str, list[str]]
    metrics: list[tuple[str, str, tuple[float | None, float | None]]]
    same_profile: bool


def compare(places: Places, one: str, other: str) -> Comparison:
    """Compares two registered versions.

    Raises:
        RegistryError: there is no such version.
        StoreError: a version's bundle or scores are not in the store.
    """
    registry = places.registry()
    first, second = registry.resolve(one), registry.resolve(other)
    versions = (first, second)
    facts = {
        "created": (f"{first.created_at:%Y-%m-%d %H:%M} UTC", f"{second.created_at:%Y-%m-%d %H:%M} UTC"),
        "aliases": (", ".join(first.aliases) or "none", ", ".join(second.aliases) or "none"),
    }
    facts |= {name: (first.tags.get(name, "-"), second.tags.get(name, "-")) for name in FACTS}
    before, after = (_gates(places, each) for each in versions)
    both = [concept for concept in after if concept in before]
    gates = {
        "added": [concept for concept in after if concept not in before],
        "removed": [concept for concept in before if concept not in after],
        "retrained": [concept for concept in both if before[concept] != after[concept]],
        "the same": [concept for concept in both if before[concept] == after[concept]],
    }
    old, new = (Scores.of(places, each.tags["scores"]) for each in versions)
    names = dict.fromkeys(
        (row["metric"], row["role"], row["group"], row["unit"])
        for row in (*old.rows, *new.rows)
        if row["phase"] == "after" and (row["group"] == "all" or row["group"].startswith("set "))
    )
    metrics = [
        (
            f"{metric.replace('_', ' ')}, {role}{'' if group == 'all' else f', {group}'}",
            unit,
            (old.value(metric, "after", role, group), new.value(metric, "after", role, group)),
        )
        for metric, role, group, unit in names
    ]
    return Comparison(versions, facts, gates, metrics, first.tags.get("profile") == second.tags.get("profile"))


def unnamed_bundles(places: Places, versions: Sequence[ModelVersion]) -> str:
    """Returns a line about the bundles in the store that no version names, "" if there are none.

    Raises:
        StoreError: the store cannot be read.
    """
    named = {version.tags.get("bundle") for version in versions}
    bundles = [key for key in places.store().keys("bundles") if key.removeprefix("bundles/") not in named]
    if not bundles:
        return ""
    return (
        f"bundles in {places.store_url} that no registered version names: {len(bundles)}; their runs were cut off, or "
        f"{places.tracking_uri} has lost what it knew: put a backup of it back, or run `cpe erase` with their lists, "
        "which registers them again without training or drawing anew"
    )


def promote_by_hand(places: Places, reference: str, reason: str) -> tuple[str, int, int | None]:
    """Makes a version champion and returns model, version and the champion before it.

    If that was what its list says, it is held back from now on, as by a rollback: the watcher would put it back.

    Raises:
        ValueError: the reason is empty.
        RegistryError: there is no such version, or its files are gone.
    """
    registry = places.registry()
    found = registry.resolve(reference)
    champion, because = registry.champion(found.name), None
    if champion is not None and _goes_back(places, champion, found):
        because = _signed(f"version {found.version} was promoted by hand: {reason}" if reason.strip() else "")
    before = registry.promote_by_hand(found.name, found.version, reason=_signed(reason), because=because)
    return found.name, found.version, before


def _goes_back(places: Places, champion: ModelVersion, chosen: ModelVersion) -> bool:
    """Whether a promotion leaves what the list says; where no list is found, whether it goes to an older version."""
    try:
        concept_list = load_list(places.lists() / f"{champion.name.removeprefix(MODEL_PREFIX)}.yaml")
    except (ConceptListError, StoreError):
        return chosen.version < champion.version
    now = concept_list.content_hash
    return champion.tags.get("list_hash") == now != chosen.tags.get("list_hash")


def roll_back(places: Places, name: str, reason: str) -> tuple[int, int]:
    """Makes the previous champion champion again and returns its version and the one that was champion.

    Raises:
        ValueError: the reason is empty.
        RegistryError: there is no champion or none before it, or the files of that one are gone.
    """
    registry = places.registry()
    left = registry.champion(name)
    version = registry.rollback(name, reason=_signed(reason))
    return version, left.version if left else 0


def lift(places: Places, name: str, reason: str) -> list[int]:
    """Lets gates that were rolled back be promoted again, and returns the versions that were held back.

    Raises:
        ValueError: the reason is empty.
        RegistryError: nothing is held back.
    """
    return places.registry().lift(name, reason=_signed(reason))


def _signed(reason: str) -> str:
    return f"{reason} ({made_by()})" if reason.strip() else ""


def _gates(places: Places, version: ModelVersion) -> dict[str, str]:
    """Returns the addresses of a version's gates by concept."""
    folder = places.fetched(f"bundles/{version.tags['bundle']}")
    return json.loads((folder / "manifest.json").read_text())["gates"]

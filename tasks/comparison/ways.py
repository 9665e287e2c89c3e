"""Which ways of erasing a list is compared in, and which comparisons of it are stored."""

import json
from collections.abc import Sequence
from typing import Any

from artifacts.stores.index import MANIFEST_NAME
from cpe.lists.comparison import Way, ways_of
from cpe.lists.reading import load_only_list
from tasks.here.places import Places
from tasks.prepare import check_list, find_list

KIND = "comparisons"
COMPARES = 3  # raised when the same scores would give another table or page


def choose_ways(
    places: Places, name: str, methods: Sequence[str] | None, seeds: int, erased: Sequence[int] | None = None
) -> tuple[Way, ...]:
    """Returns the ways in which a list is compared.

    Args:
        places: where lists are.
        name: a path, or a name among the lists.
        methods: ways of erasing, by name; None or none is all that there are.
        seeds: how many training seeds each gets that draws anything at random.
        erased: how many of its targets to erase, one number after the other; None or none is all of them.

    Raises:
        ValueError: as `cpe.lists.comparison.ways_of`, or something in the list is wrong.
    """
    return ways_of(load_only_list(find_list(places, name)), methods or (), seeds, erased or ())


def check_comparison(
    places: Places,
    name: str,
    methods: Sequence[str] | None,
    seeds: int,
    profile: str | None,
    erased: Sequence[int] | None = None,
) -> None:
    """Checks in seconds, before a server is started or weights are loaded, what a comparison would refuse.

    Raises:
        ValueError: as `check_list` and `choose_ways`.
    """
    choose_ways(places, name, methods, seeds, erased)
    check_list(places, name, profile)


def stored_comparison(
    places: Places,
    name: str,
    methods: Sequence[str] | None,
    seeds: int | None,
    profile: str | None,
    erased: Sequence[int] | None = None,
) -> str | None:
    """Returns the address of the comparison of a list's present content that was made last; None if there is none.

    Args:
        places: where to look.
        name: a path, or a name among the lists.
        methods: those it must be of, in any order; None asks for no certain ones.
        seeds: how many training seeds it must have; None likewise.
        profile: how its pictures were made; None is the list's own.
        erased: how many targets it must have erased, every number; None or none is all of them.

    Raises:
        ConceptListError: something in the list is wrong.
    """
    concept_list, store = load_only_list(find_list(places, name)), places.store()
    asked: dict[str, Any] = {"compares": COMPARES, "list_hash": concept_list.content_hash}
    asked |= {"profile": profile or concept_list.profile}
    asked |= {"erased": sorted(set(erased or (len(concept_list.targets),)))}
    asked |= {"methods": sorted(set(methods))} if methods else {}
    asked |= {"seeds": seeds} if seeds is not None else {}
    found = []
    for key in store.keys(KIND):
        manifest: dict[str, Any] = json.loads(store.read_file(key, MANIFEST_NAME))
        if all(manifest.get(name) == value for name, value in asked.items()):
            found.append((manifest["finished_at"], key.partition("/")[2]))
    return next((address for _, address in sorted(found, reverse=True) if places.holds(f"{KIND}/{address}")), None)

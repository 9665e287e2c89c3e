"""A page's bench over the work folder of an earlier release: a list, its champion, and a second version of it."""

from pathlib import Path

from helpers.earlier import unpack_earlier
from tasks.here.places import Places
from tasks.page.opening import Opened, open_bench

FIRST, SECOND = "cpe-few/1", "cpe-few/2"


def page_places(folder: Path) -> Places:
    """Unpacks the work folder and registers its bundle once more, so that there are two versions to choose from."""
    work = unpack_earlier(folder)
    places = Places.from_environment({"CPE_WORK": str(work), "CPE_LISTS": str(folder)})
    registry = places.registry()
    first = registry.resolve(FIRST)
    tags = {name: value for name, value in first.tags.items() if not name.startswith("promoted")}
    registry.register(first.name, first.run_id, "bundle", tags=tags)
    return places


def opened_page(places: Places, named: str | None = "few") -> Opened:
    """Returns the bench of a page about the list, which draws in few steps."""
    opened = open_bench(places, named)
    opened.bench.profile = opened.bench.profile.model_copy(update={"steps": 4})
    return opened

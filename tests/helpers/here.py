"""Places that tests mean."""

from pathlib import Path

from tasks.here.places import Places


def here() -> Places:
    """Returns the places that the test's environment names: those of commands and flows that it runs."""
    return Places.from_environment()


def places_in(work: Path) -> Places:
    """Returns places that lie in one work folder, whatever the environment says."""
    return Places.from_environment({"CPE_WORK": str(work)})

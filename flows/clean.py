"""Cleaning on a schedule: what no version, list or running job needs any more leaves the store."""

from prefect import flow, get_run_logger

from tasks.desk.clean import GRACE_DAYS, KEEP_VERSIONS
from tasks.steps import clean_store
from wording.figures import size


@flow(name="clean-store")
def clean(keep_versions: int = KEEP_VERSIONS, grace_days: float = GRACE_DAYS, delete: bool = True) -> int:
    """Removes what nothing needs, and returns how many bytes that were.

    Args:
        keep_versions: how many versions of each model are kept besides those with an alias.
        grace_days: what was stored, and plans that were used, within so many days stay.
        delete: False only looks.
    """
    found = clean_store(keep_versions, grace_days, delete=delete)
    freed = sum(found.removed.values())
    what = "removed" if delete else "could be removed"
    get_run_logger().info("%d artifacts, %s, %s; %d kept", len(found.removed), size(freed), what, len(found.kept))
    return freed

"""What must hold in a soak, found out apart from the code that makes it hold: from registry, store and processes."""

import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from soak_lists import SoakList
from soak_stack import SoakStack

from artifacts.registry.registry import ModelVersion, Registry
from cpe.lists.reading import load_list
from tasks.here.places import Places
from tasks.watch.runs import WORKING, list_of, runs

RESULT = ("bundle", "scores", "list_hash")


class BrokenError(Exception):
    """An invariant that does not hold."""


class Checks:
    """The invariants.

    Args:
        stack: that runs.
        lists: that are watched.
        blocked_s: longest that a dead run may be in its list's way.
    """

    def __init__(self, stack: SoakStack, lists: list[SoakList], blocked_s: float) -> None:
        self.stack, self.lists, self.blocked_s = stack, lists, blocked_s
        self.dead_since: dict[str, float] = {}
        self.longest_blocked_s = 0.0
        self.verified: set[str] = set()
        self.counts: Counter[str] = Counter()

    def after_start(self) -> None:
        """Forgets for how long runs seemed dead: nobody could tell while the server was away."""
        self.dead_since = {run: time.monotonic() for run in self.dead_since}

    def unsettled(self) -> list[str]:
        """Returns which lists' champions are not what they say, and why; none once all is as it should be."""
        registry = Places.from_environment().registry()
        return [why for each in self.lists if (why := self._unsettled(registry, each))]

    def _unsettled(self, registry: Registry, listed: SoakList) -> str:
        versions = registry.versions(listed.model)
        content = load_list(listed.path).content_hash
        champion = next((each for each in versions if "champion" in each.aliases), None)
        if champion is not None and champion.tags.get("list_hash") == content:
            return ""
        own = [each for each in versions if each.tags.get("list_hash") == content]
        if own and listed.held:
            self.counts["held back by a rollback"] += 1
            return ""
        if own and champion is not None and own[0].tags.get("fell_short_against") == str(champion.version):
            self.counts["short of the champion"] += 1
            return ""
        number = champion.version if champion else "none"
        return f"{listed.name}: champion {number}, of {len(versions)} versions {len(own)} of the list as it is"

    def no_dead_run_blocks(self, client: object) -> None:
        """Checks that no run without a process is recorded as at work for too long.

        Raises:
            BrokenError: one is.
        """
        working = {str(run.id): run for run in runs(client, WORKING)}  # type: ignore[arg-type]
        now = time.monotonic()
        self.dead_since = {run: self.dead_since.get(run, now) for run in working if not self.stack.has_process(run)}
        for run, since in self.dead_since.items():
            self.longest_blocked_s = max(self.longest_blocked_s, now - since)
            if now - since > self.blocked_s:
                name = f"{working[run].name} ({working[run].state_name}) of list {list_of(working[run])}"
                raise BrokenError(f"run {name} has been dead for {now - since:.0f} s, and is in its list's way")

    def one_version_a_result(self) -> None:
        """Checks that nothing is registered twice.

        Raises:
            BrokenError: something is.
        """
        registry = Places.from_environment().registry()
        for listed in self.lists:
            results: dict[tuple[str, ...], ModelVersion] = {}
            for version in registry.versions(listed.model):
                result = tuple(version.tags.get(tag, "") for tag in RESULT)
                if result in results:
                    both = f"{version.version} and {results[result].version}"
                    raise BrokenError(
                        f"versions {both} of {listed.model} are one result: {dict(zip(RESULT, result, strict=True))}"
                    )
                results[result] = version

    def artifacts_are_whole(self) -> None:
        """Checks every artifact that was not checked yet, and that every champion can be had.

        Raises:
            BrokenError: one is damaged.
        """
        places = Places.from_environment()
        store, registry = places.store(), places.registry()
        with TemporaryDirectory(prefix="soak-") as scratch:
            for key in sorted(set(store.keys()) - self.verified):
                self._whole(f"artifact {key}", lambda key=key: store.fetch(key, Path(scratch) / key))
                self.verified.add(key)
            for listed in self.lists:
                if registry.champion(listed.model) is not None:
                    reference = f"{listed.model}@champion"
                    self._whole(reference, lambda r=reference: registry.fetch(r, Path(scratch) / r))

    def _whole(self, what: str, fetch: object) -> None:
        try:
            fetch()  # type: ignore[operator]
        except Exception as error:
            raise BrokenError(f"{what} cannot be had: {error}") from error

"""Which version of a model is in use: promotion, rollback, and what a rollback holds back.

The alias `champion` is the version to use, `previous` the one to go back to. A rollback is a person's word: the gates
that were rolled back (the tag `bundle`) stay held back, in whichever version they come, until a person lifts that or
promotes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from artifacts.registry.link import RegistryError
from artifacts.registry.runs import require_files
from artifacts.registry.versions import CHAMPION, HELD_BACK, ROLLED_BACK_AT, ModelVersion, aliases_of

PREVIOUS = "previous"


class Champions(ABC):
    """The part of a registry that says which version is in use."""

    client: Any

    @abstractmethod
    def versions(self, name: str) -> list[ModelVersion]:
        """See `Registry.versions`."""

    @abstractmethod
    def resolve(self, reference: str) -> ModelVersion:
        """See `Registry.resolve`."""

    @abstractmethod
    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """See `Registry.set_tags`."""

    @abstractmethod
    def _reporting(self, what: str) -> AbstractContextManager[None]: ...

    def promote(self, name: str, version: int, *, reason: str) -> int | None:
        """Make a version the champion and the old champion `previous`; a champion stays as it is.

        Args:
            name: The registered model.
            version: The version to use from now on.
            reason: Why, for people; kept with the time as the version's tags `promoted_reason` and `promoted_at`.

        Returns:
            The version that was champion before this call, None when there was none.

        Raises:
            ValueError: An empty reason.
            RegistryError: There is no such version, its files are gone, or MLflow refused.
        """
        _require(reason, "the version is promoted")
        found = self.resolve(f"{name}/{version}")
        with self._reporting(f"promote {name} version {version}"):
            champion = aliases_of(self.client, name).get(CHAMPION)
            require_files(self.client, name, version)
            if champion != version:
                if champion is not None:
                    self.client.set_registered_model_alias(name, PREVIOUS, str(champion))
                self.client.set_registered_model_alias(name, CHAMPION, str(version))  # the one step that counts
            elif "promoted_at" in found.tags:
                return champion
            self.set_tags(
                name, version, {"promoted_reason": reason, "promoted_at": _now()}
            )  # only once it has happened
            return champion

    def champion(self, name: str) -> ModelVersion | None:
        """Find the version that is in use; None when no version of the model is, or there is no such model.

        Raises:
            RegistryError: The registry cannot be read.
        """
        return next((each for each in self.versions(name) if CHAMPION in each.aliases), None)

    def rollback(self, name: str, *, reason: str) -> int:
        """Make the version before the champion the champion again, and hold the champion's bundle back.

        Args:
            name: The registered model.
            reason: Why, for people; kept with the time as tags `rolled_back_reason` and `rolled_back_at` of the version
                that was champion.

        Returns:
            The version that is champion now.

        Raises:
            ValueError: An empty reason.
            RegistryError: There is no champion, or none before it, or its files are gone, or MLflow refused.
        """
        champion = self.champion(name)
        if champion is None:
            raise RegistryError(f"model {name!r} has no champion to roll back; `cpe models` lists what there is")
        with self._reporting(f"roll back {name}"):
            before = aliases_of(self.client, name).get(PREVIOUS)
            if before is None or before == champion.version:
                raise RegistryError(
                    f"model {name!r} had no champion before version {champion.version}; promote another version instead"
                )
        self.promote_by_hand(
            name, before, reason=f"rolled back from version {champion.version}: {reason}", because=reason
        )
        return before

    def promote_by_hand(self, name: str, version: int, *, reason: str, because: str | None = None) -> int | None:
        """Promote a version as a person's word: its bundle is held back no longer.

        Args:
            name: The registered model.
            version: The version to use from now on.
            reason: As for `promote`.
            because: Why the present champion's bundle is held back from now on; None holds nothing back.

        Returns:
            The version that was champion before this call, None when there was none.

        Raises:
            ValueError: An empty reason.
            RegistryError: There is no such version, its files are gone, or MLflow refused.
        """
        _require(reason if because is None else because, "another version is chosen")
        chosen, champion = self.resolve(f"{name}/{version}"), self.champion(name)
        with self._reporting(f"promote {name} version {version}"):
            require_files(self.client, name, version)
        self._lift(name, bundle_of(chosen), f"version {version} was chosen by hand: {reason}")
        if because is not None and champion is not None and champion.version != version:
            # First, so that a command cut off here leaves a champion that is rolled back again, not one that returns.
            held = {ROLLED_BACK_AT: _now(), "rolled_back_reason": because, HELD_BACK: "yes"}
            self.set_tags(name, champion.version, held)
        return self.promote(name, version, reason=reason)

    def lift(self, name: str, *, reason: str) -> list[int]:
        """Let bundles that were rolled back be promoted again.

        Args:
            name: The registered model.
            reason: Why, for people; kept with the time as tags `lifted_reason` and `lifted_at`.

        Returns:
            The versions that were held back.

        Raises:
            ValueError: An empty reason.
            RegistryError: Nothing is held back, or MLflow refused.
        """
        _require(reason, "the rollback is lifted")
        lifted = self._lift(name, None, reason)
        if not lifted:
            raise RegistryError(f"model {name!r} has no version that is held back; `cpe models` lists what there is")
        return lifted

    def holding(self, name: str, bundle: str) -> ModelVersion | None:
        """Find the version whose rollback holds a bundle back; None when nothing does.

        Raises:
            RegistryError: The registry cannot be read.
        """
        return next((each for each in self.versions(name) if each.is_rolled_back and bundle_of(each) == bundle), None)

    def _lift(self, name: str, bundle: str | None, reason: str) -> list[int]:
        """Lift what holds a bundle back, or everything; returns the versions."""
        held = [each for each in self.versions(name) if each.is_rolled_back and bundle in (None, bundle_of(each))]
        for each in held:
            self.set_tags(name, each.version, {"lifted_at": _now(), "lifted_reason": reason, HELD_BACK: "no"})
        return [each.version for each in held]


def bundle_of(version: ModelVersion) -> str:
    """Give what a rollback of a version holds back: its bundle, or the version alone where no bundle is named."""
    return version.tags.get("bundle", f"version {version.version}")


def _require(reason: str, what: str) -> None:
    if not reason.strip():
        raise ValueError(f"reason must say why {what}, got an empty text; name the result")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Versions of registered models, and what references such as `models:/cpe-emoji@champion` mean."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from artifacts.registry.link import RegistryError, error_code

CHAMPION = "champion"
MODEL_PREFIX = "cpe-"
FILES_HASH = "files_sha256"
STORE = "store"  # the tag that says in which store a version's gates were put
HELD_BACK = "held_back"
ROLLED_BACK_AT = "rolled_back_at"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/@:]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))?")


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Attributes:
        name: The registered model.
        version: Its number, from 1.
        aliases: The aliases that point at it, sorted.
        tags: Its tags.
        created_at: When it was registered (UTC).
        run_id: The run that made it, "" when none is known.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created_at: datetime
    run_id: str

    @property
    def is_rolled_back(self) -> bool:
        """Whether a person's rollback from this version stands: neither lifted nor followed by a promotion by hand."""
        rolled_back_at = self.tags.get(ROLLED_BACK_AT)
        if HELD_BACK in self.tags or rolled_back_at is None:
            return self.tags.get(HELD_BACK) == "yes"
        return self.tags.get("promoted_at", "") < rolled_back_at  # versions from before there was the tag


def model_names(client: Any) -> list[str]:
    """List the names of all registered models, sorted."""
    return sorted(model.name for model in _pages(client.search_registered_models))


def aliases_of(client: Any, name: str) -> dict[str, int]:
    """Give the aliases of a model and the versions they point at; none for a model that does not exist."""
    try:
        found = client.get_registered_model(name).aliases
    except Exception as error:
        if error_code(error) != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: int(version) for alias, version in found.items()}


def versions_of(client: Any, name: str) -> list[ModelVersion]:
    """List the versions of a model, newest first; none for a model that does not exist."""
    if not NAME.fullmatch(name):
        return []
    aliases = aliases_of(client, name)
    found = [
        ModelVersion(
            name=name,
            version=int(each.version),
            aliases=tuple(sorted(alias for alias, version in aliases.items() if version == int(each.version))),
            tags=dict(each.tags),
            created_at=datetime.fromtimestamp(each.creation_timestamp / 1000, UTC),
            run_id=each.run_id or "",
        )
        for each in _pages(client.search_model_versions, filter_string=f"name='{name}'")
    ]
    return sorted(found, key=lambda each: each.version, reverse=True)


def parse_reference(reference: str) -> tuple[str, str | None, int | None]:
    """Split a reference into name, alias and version.

    Args:
        reference: `models:/name@alias`, `models:/name/3`, `name@alias`, `name/3` or `name`.

    Returns:
        The name, and the alias or the version if there is one.

    Raises:
        RegistryError: It is none of these.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise RegistryError(
            "reference must be name, name@alias or name/3, with models:/ before it or not, "
            f"got {reference!r}; write for example models:/cpe-emoji@champion"
        )
    return match["name"], match["alias"], int(match["version"]) if match["version"] else None


def choose(versions: Sequence[ModelVersion], alias: str | None, version: int | None) -> ModelVersion:
    """Pick the version that an alias or a number names, else the champion, else the newest.

    Args:
        versions: All versions of one model, newest first, at least one.
        alias: The alias, or None.
        version: The number, or None.

    Returns:
        The version.

    Raises:
        RegistryError: None has that alias or number; the message lists those there are.
    """
    aliases = {each_alias: each for each in versions for each_alias in each.aliases}
    if alias is None and version is None:
        return aliases.get(CHAMPION, versions[0])
    for each in versions:
        if alias in each.aliases or each.version == version:
            return each
    named = ", ".join(f"{each_alias} (version {each.version})" for each_alias, each in sorted(aliases.items()))
    wanted = f"version {version}" if alias is None else f"alias {alias!r}"
    raise RegistryError(
        f"model {versions[0].name!r} has no {wanted}; its aliases: {named or 'none'}; "
        f"its versions: {', '.join(str(each.version) for each in reversed(versions))}"
    )


def check_model_name(name: str) -> str:
    """Refuse a malformed name of a registered model, and return a good one.

    Raises:
        ValueError: It has other characters than letters, digits, ".", "_" and "-".
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name must be letters, digits, '.', '_' and '-', got {name!r}; use for example 'cpe-emoji'")
    return name


def _pages(search: Callable[..., Any], **options: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return

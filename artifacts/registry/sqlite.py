"""Versions read straight from MLflow's SQLite database: its own client takes seconds to load, too long for a look.

Only tables of the one form that is known here are read, and only read. Whatever else there is, and every change, is
left to MLflow's client.
"""

import sqlite3
from collections import defaultdict
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from artifacts.registry.versions import ModelVersion

FORM = "dc11669786a5"  # MLflow's name (alembic's revision) for the form of the tables that are read here
WAIT_S = 5.0  # for whoever writes
VERSIONS = """
    SELECT name, version, creation_time, run_id FROM model_versions AS found
    WHERE workspace = 'default' AND current_stage != 'Deleted_Internal' AND name {which} ?
    AND NOT EXISTS (
        SELECT 1 FROM model_version_tags AS tags WHERE tags.key = 'mlflow.prompt.is_prompt' AND tags.value = 'true'
        AND tags.name = found.name AND tags.version = found.version AND tags.workspace = found.workspace
    )
    ORDER BY name, version DESC
"""
TAGS = "SELECT name, version, key, value FROM model_version_tags WHERE workspace = 'default' AND name {which} ?"
PLACE = """
    SELECT artifact_uri, source, run_id FROM model_versions AS found JOIN runs ON runs.run_uuid = found.run_id
    WHERE workspace = 'default' AND current_stage != 'Deleted_Internal' AND lifecycle_stage = 'active'
    AND found.name = ? AND version = ?
"""
ALIASES = "SELECT name, version, alias FROM registered_model_aliases WHERE workspace = 'default' AND name {which} ?"


def is_known(path: Path) -> bool:
    """Whether a database file is one that can be read here."""
    if not path.is_file():
        return False
    try:
        with closing(_opened(path)) as database:
            return database.execute("SELECT version_num FROM alembic_version").fetchall() == [(FORM,)]
    except sqlite3.Error:
        return False


def versions_in(path: Path, *, name: str | None = None, prefix: str = "") -> list[ModelVersion] | None:
    """List the versions of a model, or of all models whose name starts with a prefix, newest first within each model.

    Args:
        path: The database's file.
        name: The model; None takes the prefix.
        prefix: Letters, digits, "." and "-".

    Returns:
        The versions; none where there is no database yet; None where MLflow's client has to be asked.
    """
    if not path.exists():
        return []
    if not is_known(path):
        return None
    which, wanted = ("=", name) if name is not None else ("GLOB", f"{prefix}*")
    try:
        with closing(_opened(path)) as database:
            database.execute("BEGIN")  # one moment for all three
            rows, tags, aliases = (
                database.execute(query.format(which=which), (wanted,)).fetchall() for query in (VERSIONS, TAGS, ALIASES)
            )
    except sqlite3.Error:
        return None
    tags_of: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for model, version, key, value in tags:
        tags_of[model, version][key] = value
    aliases_of: dict[tuple[str, int], list[str]] = defaultdict(list)
    for model, version, alias in aliases:
        aliases_of[model, version].append(alias)
    return [
        ModelVersion(
            name=model,
            version=version,
            aliases=tuple(sorted(aliases_of[model, version])),
            tags=tags_of[model, version],
            created_at=datetime.fromtimestamp(created / 1000, UTC),
            run_id=run_id or "",
        )
        for model, version, created, run_id in rows
    ]


def files_of(path: Path, name: str, version: int) -> Path | None:
    """Give the folder of a version's files, which may be gone; None where MLflow's client has to be asked.

    Args:
        path: The database's file.
        name: The model.
        version: Its version.
    """
    if not is_known(path):
        return None
    try:
        with closing(_opened(path)) as database:
            row = database.execute(PLACE, (name, version)).fetchone()
    except sqlite3.Error:
        return None
    uri, source, run_id = row or ("", "", "")
    if not uri.startswith("file:///") or not source.startswith(f"runs:/{run_id}/"):
        return None
    return Path(unquote(urlsplit(uri).path)) / source.removeprefix(f"runs:/{run_id}/")


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=WAIT_S, isolation_level=None)

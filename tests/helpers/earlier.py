"""The work folder of an earlier release.

`flows/earlier/work-0.1.tar.xz` is the one in which release 0.1.0 had erased `few.yaml`: its store, MLflow's database
and files, and its results, made at `/earlier`. Its evaluation has a template of training, as lists must say since.
"""

import sqlite3
import tarfile
from pathlib import Path

from helpers.places import TESTS

PACKED = TESTS / "flows" / "earlier" / "work-0.1.tar.xz"


def unpack_earlier(folder: Path) -> Path:
    """Puts the list and the work folder below a folder, addresses being where they lie now; returns the latter."""
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    text = (folder / "few.yaml").read_text()
    (folder / "few.yaml").write_text(text.replace("evaluation:\n", "evaluation:\n  as_published: true\n"))
    database = sqlite3.connect(folder / "work" / "mlflow.db")
    with database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?',
                    ("/earlier/", f"{folder}/", "%/earlier/%"),
                )
    database.close()
    return folder / "work"

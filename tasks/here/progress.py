"""Progress bars on the terminal and, within a Prefect run, as a progress artifact."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from tqdm import tqdm

from tasks.here.clock import at_work, within_task

UPDATE_EVERY_S = 5.0
TERMINAL_EVERY_S, LOG_EVERY_S = 0.5, 15.0


class Progress:
    """A bar that counts work done; call it with how much was just done."""

    def __init__(self, bar: tqdm, total: int, artifact: UUID | None) -> None:
        self._bar, self._total, self._artifact = bar, total, artifact
        self._updated = time.monotonic()

    def __call__(self, done: int = 1, note: str = "") -> None:
        self._bar.update(done)
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        if time.monotonic() - self._updated > UPDATE_EVERY_S:
            self._updated = time.monotonic()
            self._update_artifact()

    def complete(self) -> None:
        """Counts what was there already, so that the bar ends full."""
        self(self._total - int(self._bar.n))

    def __str__(self) -> str:
        return f"{self._bar.desc.removesuffix(': ')}: {int(self._bar.n):,} of {self._total:,} {self._bar.unit}s"

    def finish(self) -> None:
        """Closes the bar and brings the artifact up to date."""
        self._bar.close()
        self._update_artifact()

    def _update_artifact(self) -> None:
        if self._artifact is not None:
            from prefect.artifacts import update_progress_artifact

            update_progress_artifact(self._artifact, progress=100.0 * self._bar.n / max(1, self._total))


@contextmanager
def progress(label: str, total: int, unit: str, **options: Any) -> Iterator[Progress]:
    """Yields a `Progress` over so many units of work; its clock starts here, so models are loaded before.

    Args:
        label: what is done.
        total: how many units there are.
        unit: what one is called.
        options: of tqdm; `initial` is how many were done before, without which the rest is reckoned.
    """
    every_s = TERMINAL_EVERY_S if sys.stderr.isatty() else LOG_EVERY_S
    artifact = _artifact(label) if within_task() else None
    bar = tqdm(total=total, desc=label, unit=unit, file=sys.stderr, mininterval=every_s, **options)
    shown = Progress(bar, total, artifact)
    with at_work(shown.__str__):
        try:
            yield shown
        finally:
            shown.finish()


def _artifact(label: str) -> UUID | None:
    from prefect.artifacts import create_progress_artifact

    made = create_progress_artifact(progress=0.0, description=label)
    return made if isinstance(made, UUID) else None

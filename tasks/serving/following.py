"""What is served follows an alias of the registry: a version that was promoted is taken on without a restart."""

import threading
from collections.abc import Callable
from typing import Any

from tasks.page.bench import Asked
from tasks.page.shelf import Shelf, reference_of
from tasks.serving.desk import Desk


class Following:
    """Looks at a reference every while, and hands the desk what it names; close it, or use it as a context manager.

    Attributes:
        trouble: why the last look failed, "" if it did not; what was served before is served on.

    Args:
        desk: that draws.
        shelf: of versions.
        reference: such as cpe-emoji@champion.
        every: seconds between two looks.
        changed: is told the version that is served from then on.

    Raises:
        RegistryError: there is no such version at the start.
        RuntimeError: it fits another base model.
    """

    def __init__(
        self, desk: Desk, shelf: Shelf, reference: str, *, every: float, changed: Callable[[str], Any] = str
    ) -> None:
        self.trouble, self._refused = "", ""  # a version that did not fit is not tried again
        self._desk, self._shelf, self._reference, self._changed = desk, shelf, reference, changed
        self._ended = threading.Event()
        self.look()
        self._thread = threading.Thread(target=self._follow, args=(every,), name="cpe-following", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Looks now.

        Raises:
            RegistryError: there is no such version, or its files are gone.
            ValueError: its files are no gates that can be read here.
            RuntimeError: it fits another base model, and nothing was served before.
        """
        taken = self._shelf.take(self._reference)
        version = reference_of(taken.version)
        if version in (self._desk.version, self._refused):
            return
        self._desk.serve_with(version, taken.erased)
        self._desk.ask(Asked("a first picture")).result()  # puts it on now, and tells whether it fits
        self._refused = "" if self._desk.version == version else version
        self._changed(self._desk.version)

    def _follow(self, every: float) -> None:
        while not self._ended.wait(every):
            try:
                self.look()
                self.trouble = ""
            except Exception as error:
                self.trouble = str(error)

    def close(self) -> None:
        """Looks no more."""
        self._ended.set()
        self._thread.join()

    def __enter__(self) -> "Following":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

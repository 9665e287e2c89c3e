"""Claims in a store: of several machines that could do one piece of work, one does it while the others wait.

A claim is a chain of numbered keys `claims/<name>/<number>`, each of them put once and by one machine alone (the store
decides). Whoever put the last number holds the claim, and puts the next one before it looks abandoned; a machine that
saw no new number for `patience_s` takes the claim over with that number. No clock is compared with another's.

A claim saves work, it guards nothing: what is stored stays whole if two machines work at once all the same.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from artifacts.disk import StoreError
from artifacts.stores.index import MANIFEST_NAME
from artifacts.stores.store import Store
from wording.canonical import canonical_json

PREFIX = "claims"
RENEW_S = 20.0
PATIENCE_S = 90.0  # four renewals may be late
POLL_S = 2.0
DIGITS = 8


@contextmanager
def claimed(
    store: Store,
    name: str,
    is_done: Callable[[], bool],
    *,
    owner: str,
    renew_s: float = RENEW_S,
    patience_s: float = PATIENCE_S,
    poll_s: float = POLL_S,
) -> Iterator[bool]:
    """Waits until the work is done or nobody else is at it; then the work is the caller's for the block.

    Args:
        store: The store that the machines share.
        name: Of the work, a part of a key: letters, digits, ".", "_" and "-".
        is_done: Says whether somebody finished it.
        owner: Who asks. A claim that this very owner left (it was killed) is taken over at once, so whoever shares
            the name must see to it that only one of them asks at a time.
        renew_s: How often a claim is renewed while the block runs.
        patience_s: How long a claim that is not renewed is believed.
        poll_s: How often a waiting caller looks.

    Yields:
        True if the caller is to do the work, False if it was done meanwhile.

    Raises:
        ValueError: A malformed name.
        StoreError: The store cannot be read or written.
    """
    claim = _Claim(store, name, owner)
    if not claim.waited_for(is_done, patience_s, poll_s):
        yield False
        return
    stop = threading.Event()
    renewing = threading.Thread(target=claim.renew_until, args=(stop, renew_s), daemon=True)
    renewing.start()
    try:
        yield not is_done()
    finally:
        stop.set()
        renewing.join()
        claim.give_back()


class _Claim:
    def __init__(self, store: Store, name: str, owner: str) -> None:
        self.store, self.owner = store, owner
        self.prefix = f"{PREFIX}/{name}"
        self.number = 0

    def waited_for(self, is_done: Callable[[], bool], patience_s: float, poll_s: float) -> bool:
        """Returns True once the claim is had, False once the work is done."""
        last, since = -1, time.monotonic()
        while not is_done():
            now = self._last()
            if now != last:
                last, since = now, time.monotonic()
            abandoned = now == 0 or self._owner(now) == self.owner or time.monotonic() - since > patience_s
            if abandoned and self._put(now + 1):
                return True
            if not abandoned:
                time.sleep(poll_s)
        return False

    def renew_until(self, stop: threading.Event, renew_s: float) -> None:
        while not stop.wait(renew_s):
            with suppress(StoreError):  # the work goes on, and another machine may do it too
                last = self.number
                if self._put(last + 1):
                    self.store.delete(self._key(last))

    def give_back(self) -> None:
        with suppress(StoreError):  # what is left is taken for abandoned
            for key in self.store.keys(self.prefix):
                if int(key.rpartition("/")[2]) <= self.number:
                    self.store.delete(key)

    def _put(self, number: int) -> bool:
        with TemporaryDirectory(prefix="cpe-") as folder:
            # With something of its own, so that no two machines ever put the same bytes.
            (Path(folder) / MANIFEST_NAME).write_bytes(canonical_json({"owner": self.owner, "of": uuid.uuid4().hex}))
            mine = self.store.put(self._key(number), Path(folder))
        self.number = number if mine else self.number
        return mine

    def _last(self) -> int:
        return max((int(key.rpartition("/")[2]) for key in self.store.keys(self.prefix)), default=0)

    def _owner(self, number: int) -> str:
        with suppress(StoreError, ValueError):
            return str(json.loads(self.store.read_file(self._key(number), MANIFEST_NAME))["owner"])
        return ""  # given back, or renewed, since

    def _key(self, number: int) -> str:
        return f"{self.prefix}/{number:0{DIGITS}d}"

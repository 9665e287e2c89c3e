"""One loaded model for any number of requests: a thread draws them in batches, in the order in which they came.

What erases may change between two batches, while requests wait: none is dropped, and each answer says which version it
was drawn with. A version that cannot be put on is told of, and the one before stays; where there is none before,
requests fail: nothing is ever drawn without what should erase.
"""

import io
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpe.terms.profiles import Profile
from tasks.page.bench import Asked

if TYPE_CHECKING:
    from cpe.methods.erased import Erased


class Full(RuntimeError):  # noqa: N818 - a queue that is full is no fault
    """As many requests wait as may; the message says so."""


class Closed(RuntimeError):  # noqa: N818
    """The desk takes no more requests: it is ending."""


@dataclass(frozen=True)
class Answer:
    """One picture.

    Attributes:
        png: the picture's file.
        version: what erased, such as cpe-emoji/3.
        seconds: from the request's coming to its answer.
        together: how many pictures were drawn in one batch with it.
    """

    png: bytes
    version: str
    seconds: float
    together: int


@dataclass(frozen=True)
class _Waiting:
    asked: Asked
    came: float
    answer: "Future[Answer]"


class Desk:
    """Answers requests; close it, or use it as a context manager.

    Attributes:
        trouble: why a version could not be put on, "" if all could.

    Args:
        pipe: the loaded base model; nobody else may use it meanwhile.
        profile: how pictures are made.
        most_waiting: requests that may wait; one more is refused.
    """

    def __init__(self, pipe: Any, profile: Profile, *, most_waiting: int) -> None:
        self.pipe, self.profile, self.most_waiting = pipe, profile, most_waiting
        self._queue: queue.Queue[_Waiting | None] = queue.Queue()
        self._lock = threading.Lock()
        self._next: tuple[str, Erased] | None = None
        self._now: tuple[str, Erased] | None = None
        self._closed, self.trouble = False, ""
        self._thread = threading.Thread(target=self._work, name="cpe-serving", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return self._queue.qsize()

    @property
    def alive(self) -> bool:
        """Whether it draws."""
        return self._thread.is_alive()

    @property
    def version(self) -> str:
        """What the next batch is drawn with; "" for nothing yet."""
        return self._next[0] if self._next else ""

    def serve_with(self, version: str, erased: "Erased") -> None:
        """Lets the next batch, and all that follow, be drawn with another version."""
        self._next = (version, erased)

    def ask(self, asked: Asked) -> "Future[Answer]":
        """Takes a request.

        Raises:
            Full: too many wait.
            Closed: the desk is ending.
        """
        answer: Future[Answer] = Future()
        with self._lock:  # never a request behind the end
            if self._closed:
                raise Closed("the server is ending; ask another one")
            if self._queue.qsize() >= self.most_waiting:
                raise Full(f"{self.most_waiting} requests wait already; ask again in a moment")
            self._queue.put(_Waiting(asked, time.monotonic(), answer))
        return answer

    def close(self) -> None:
        """Takes no more requests, answers those that wait, and puts the pipeline back as it was."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        try:
            while batch := self._batch():
                try:
                    self._change()
                    self._draw(batch)
                except Exception as error:
                    for each in batch:
                        if not each.answer.done():
                            each.answer.set_exception(error)
        finally:
            if self._now is not None:
                self._now[1].detach()

    def _batch(self) -> list[_Waiting]:
        """Waits for a request, and takes those with it that wait by then; none at the end."""
        first = self._queue.get()
        batch = [] if first is None else [first]
        while batch and len(batch) < self.profile.batch:
            try:
                each = self._queue.get_nowait()
            except queue.Empty:
                break
            if each is None:
                self._queue.put(None)  # the end is for the next turn
                break
            batch.append(each)
        return [each for each in batch if each.answer.set_running_or_notify_cancel()] or (batch and self._batch())

    def _change(self) -> None:
        """Attaches what the next batch is to be drawn with, if it is not on already.

        Raises:
            RuntimeError: nothing can be put on.
        """
        before, wanted = self._now, self._next
        if wanted is None:
            raise RuntimeError("nothing is served yet; ask again in a moment")
        if wanted is before:
            return
        if before is not None:
            before[1].detach()
        self._now = None  # until the other is on
        try:
            wanted[1].attach(self.pipe)
            self._now, self.trouble = wanted, ""
        except (ValueError, RuntimeError) as error:
            self.trouble = f"{wanted[0]} cannot be served: {error}"
            if before is None:
                raise RuntimeError(self.trouble) from error
            before[1].attach(self.pipe)
            self._next = self._now = before

    def _draw(self, batch: list[_Waiting]) -> None:
        assert self._now is not None, "changed to something, or nothing is drawn"
        version = self._now[0]
        from cpe.models.drawing import PictureJob, generate

        by_id = {str(number): each for number, each in enumerate(batch)}
        jobs = [PictureJob(name, each.asked.prompt, each.asked.seed) for name, each in by_id.items()]
        for job, picture in generate(self.pipe, jobs, self.profile):
            packed = io.BytesIO()
            picture.save(packed, format="PNG")
            each = by_id[job.picture_id]
            took = time.monotonic() - each.came
            each.answer.set_result(Answer(packed.getvalue(), version, took, len(batch)))

"""A cache of prompt embeddings in a folder: encoded once, kept in half precision, shared by concepts and processes.

`rows.f16` holds the embeddings end to end. `index.jsonl` is a header and then one line a row: the prompt's SHA-256
and the checksum of the row. A row counts once its line is there, and as long as its checksum holds: what a killed
writer leaves unfinished is written over, and a damaged row is encoded again.
"""

# Axes: B prompts, T tokens, D text width, M rows of the cache.

import fcntl
import json
import mmap
import os
import sys
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from cpe.models.embedding_values import EmbeddingError, halved, key_of

INDEX_NAME, ROWS_NAME = "index.jsonl", "rows.f16"
FORMAT = {"format": 1, "dtype": np.dtype(np.float16).str}  # the dtype names the order of its bytes, too
MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # `mmap` names it from Python 3.13 on


class EmbeddingCache:
    """The embeddings of one text encoder.

    Any number of processes may read and fill it at once. One object is for one thread.

    Args:
        folder: named by whatever determines the embeddings; the first `fill` creates it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._forget()

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """Returns, each once, the prompts that have no embedding here or a damaged one."""
        self._refresh()
        with self._reading() as rows:
            return [prompt for prompt in dict.fromkeys(prompts) if not self._is_sound(key_of(prompt), rows)]

    def fill(
        self,
        prompts: Sequence[str],
        encode: Callable[[Sequence[str]], Tensor],
        *,
        batch: int = 64,
        progress: Callable[[int], Any] | None = None,
    ) -> None:
        """Encodes what is missing, a batch at a time; what another process encodes meanwhile is not encoded again.

        Args:
            prompts: texts to be had afterwards.
            encode: gives the embeddings (B, T, D) of up to `batch` prompts.
            batch: prompts at once, and what a killed process loses at most.
            progress: called with the number of prompts just had, whoever encoded them.

        Raises:
            EmbeddingError: a value that half precision cannot hold, or a disk that takes no more.
        """
        waiting = deque(dict.fromkeys(prompts))
        while waiting:
            before = len(waiting)
            with self._alone() as (index, rows):
                chunk: list[str] = []
                while waiting and len(chunk) < batch:
                    prompt = waiting.popleft()
                    if not self._is_sound(key_of(prompt), rows):
                        chunk.append(prompt)
                if chunk:
                    self._append(chunk, halved(chunk, encode(chunk)), index, rows)
            if progress is not None:
                progress(before - len(waiting))

    def rows(self, prompts: Sequence[str]) -> list[int]:
        """Returns the prompts' rows in `table`.

        Raises:
            EmbeddingError: a prompt has no embedding here, or a damaged one.
        """
        if lacking := self.missing(prompts):
            raise EmbeddingError(f"embedding cache {self.folder} lacks {lacking[0]!r} or it is damaged; fill it first")
        return [self._entries[key_of(prompt)][0] for prompt in prompts]

    @property
    def table(self) -> Tensor:
        """All rows so far, (M, T, D) float16, mapped: only what is used is read, and changes stay in this process.

        Raises:
            EmbeddingError: there are none.
        """
        self._refresh()
        with self._reading() as rows:
            held = min(self._count, os.fstat(rows.fileno()).st_size // self._row_bytes) if self._count else 0
            if not held:
                raise EmbeddingError(f"embedding cache {self.folder} holds nothing yet; fill it first")
            mapped = mmap.mmap(
                rows.fileno(),
                held * self._row_bytes,
                flags=mmap.MAP_PRIVATE | MAP_NORESERVE,  # or a table larger than the memory would be refused
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
        return torch.frombuffer(mapped, dtype=torch.float16).view(held, *self._shape)

    @property
    def _row_bytes(self) -> int:
        return 2 * self._shape[0] * self._shape[1]

    def _forget(self) -> None:
        """Starts afresh, with no index read."""
        self._header = b""
        self._shape = (0, 0)  # T, D
        self._read_to = 0  # bytes of the index
        self._count = 0  # rows that the index names
        self._entries: dict[str, tuple[int, int]] = {}  # a prompt's key: its row, its checksum
        self._sound: set[str] = set()  # keys whose row has been compared with its checksum

    def _refresh(self) -> None:
        """Reads what has come to the index."""
        with self._reporting():
            if (path := self.folder / INDEX_NAME).exists():
                with open(path, "rb") as index:
                    self._read(index)

    def _read(self, index: BinaryIO) -> None:
        """Reads the index from where it was read to, up to the end of its last complete line."""
        index.seek(0)
        header = index.readline()
        if header != self._header:
            self._forget()  # the cache was deleted and begun again
            if not header.endswith(b"\n"):
                return
            self._header, self._shape, self._read_to = header, self._shape_of(header), len(header)
        index.seek(self._read_to)
        text = index.read()
        *lines, unfinished = text.split(b"\n")
        self._read_to += len(text) - len(unfinished)
        for row, line in enumerate(lines, start=self._count):
            try:
                key, checksum = json.loads(line)
                self._entries[key] = (row, checksum)
                self._sound.discard(key)
            except (ValueError, TypeError):
                continue  # a damaged line: its prompt counts as missing
        self._count += len(lines)

    def _shape_of(self, header: bytes) -> tuple[int, int]:
        try:
            values = json.loads(header)
            if {name: values[name] for name in FORMAT} == FORMAT:
                return int(values["tokens"]), int(values["width"])
        except (ValueError, TypeError, KeyError):
            pass
        raise EmbeddingError(
            f"{self.folder / INDEX_NAME} must begin with the header of an embedding cache ({FORMAT}), "
            f"got {header[:80]!r}; delete the folder and run again"
        )

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        path = self.folder / ROWS_NAME
        with self._reporting():
            rows = open(path if path.exists() else os.devnull, "rb")  # noqa: SIM115
        with rows:
            yield rows

    @contextmanager
    def _alone(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Yields index and rows, up to date and open for appending; one process at a time."""
        with self._reporting():
            self.folder.mkdir(parents=True, exist_ok=True)
            index = open(self.folder / INDEX_NAME, "a+b", buffering=0)  # noqa: SIM115
        with index:
            with self._reporting():
                fcntl.flock(index, fcntl.LOCK_EX)  # released when the file is closed, also by a process's end
                rows = open(self.folder / ROWS_NAME, "a+b", buffering=0)  # noqa: SIM115
            with rows:
                self._read(index)
                yield index, rows

    def _is_sound(self, key: str, rows: BinaryIO) -> bool:
        """Whether a row is there and, looked at once, has its checksum."""
        if key not in self._sound and key in self._entries:
            row, checksum = self._entries[key]
            # Read, not mapped: checking all rows must not fill this process's memory with them.
            if zlib.crc32(os.pread(rows.fileno(), self._row_bytes, row * self._row_bytes)) == checksum:
                self._sound.add(key)
        return key in self._sound

    def _append(self, prompts: Sequence[str], half: Tensor, index: BinaryIO, rows: BinaryIO) -> None:
        """Adds the embeddings (B, T, D) of new prompts: first the rows, then the lines that make them count."""
        lines = []
        if not self._header:
            tokens, width = half.shape[1:]
            lines.append(json.dumps({**FORMAT, "tokens": tokens, "width": width, "id": uuid.uuid4().hex}))
            self._shape = (tokens, width)
        if tuple(half.shape[1:]) != self._shape:
            raise EmbeddingError(
                f"embedding cache {self.folder} expects embeddings of tokens x width {self._shape}, "
                f"got {tuple(half.shape[1:])}; is it another text encoder's? If not, delete the folder"
            )
        keys = [key_of(prompt) for prompt in prompts]
        lines += [json.dumps([key, zlib.crc32(row)]) for key, row in zip(keys, half.numpy(), strict=True)]
        with self._reporting():
            rows.truncate(self._count * self._row_bytes)
            _write(rows, half.numpy().tobytes())
            os.fsync(rows.fileno())
            index.truncate(self._read_to)
            _write(index, "".join(f"{line}\n" for line in lines).encode())
        self._read(index)
        self._sound.update(keys)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turns an error of the operating system into one sentence with the way out."""
        try:
            yield
        except OSError as error:
            full = error.errno in (ENOSPC, EDQUOT)
            advice = "free some space and run again" if full else "check the folder and the disk, and run again"
            reason = error.strerror or type(error).__name__
            raise EmbeddingError(
                f"embedding cache {self.folder}: {reason}; {advice}: what is encoded already is kept"
            ) from error


def _write(file: BinaryIO, data: bytes) -> None:
    """Writes all of it to an unbuffered file: a buffer would try once more, and fail once more, when it is closed."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]

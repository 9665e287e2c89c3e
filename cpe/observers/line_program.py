"""A program of another environment, spoken to in lines of JSON over its standard input and output.

One request is under way at a time. Standard error is read on, so that the program never blocks, and its last lines
are kept for error messages. Whatever goes wrong ends the program together with everything it started.
"""

import json
import os
import selectors
import shlex
import signal
import subprocess
import time
import weakref
from contextlib import suppress
from typing import IO, Any, cast

from wording.foreign import show, told

GRACE_S = 2.0
LONGEST_LINE = 2**23
PART_BYTES = 2**16
TAIL_BYTES, TAIL_LINES = 4000, 6
# What a program may need of our environment. Everything else stays here: keys and passwords above all.
ENVIRONMENT = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "TORCH_HOME", "HF_HOME"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    "CPE_PART_OF",  # by which a stack finds what it has to stop
}
PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "XDG_", "CONDA_")
ANSWERS_ALONE = "its standard output is for answers alone, print anything else on standard error"

_Streams = tuple[IO[bytes], IO[bytes], IO[bytes]]


class LineProgram:
    """A running program. It is ended by `close`, by the first fault, or when nothing refers to it any more.

    Args:
        arguments: the program and its arguments; no shell is involved.
        timeout_s: longest silence, in seconds; may be changed between requests.
        manual: where its contract is described; named by errors.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(self, arguments: list[str], *, timeout_s: float, manual: str) -> None:
        self.command, self.timeout_s, self._manual = shlex.join(arguments), timeout_s, manual
        self._heard, self._tail = bytearray(), bytearray()
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            arguments, env=_environment(), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        )
        self._streams = cast(_Streams, (process.stdin, process.stdout, process.stderr))
        for stream in self._streams:
            os.set_blocking(stream.fileno(), False)
        self._end = weakref.finalize(self, _end, process, self._streams, self._tail)

    def ask(self, request: Any = None) -> Any:
        """Sends a request, unless it is None, and returns the next line the program says.

        Raises:
            RuntimeError: the program is closed, ended, kept silent or said no JSON; it has been ended.
        """
        if not self._end.alive:
            raise RuntimeError(f"the program `{self.command}` is closed; open it again")
        line = self._exchange(b"" if request is None else json.dumps(request).encode() + b"\n")
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise self.fault(f"said {show(line.decode(errors='replace'))} where JSON was due", ANSWERS_ALONE) from None

    def close(self) -> None:
        """Ends the program; more than once does no harm."""
        self._end()

    def fault(self, what: str, way_out: str) -> RuntimeError:
        """Ends the program; returns the error that says what it did, what to do, and what it wrote last."""
        self._end()
        lines = self._tail.decode(errors="replace").strip().splitlines()[-TAIL_LINES:]
        wrote = "; it wrote:" + "".join(f"\n    {told(line)}" for line in lines) if lines else ""
        return RuntimeError(f"the program `{self.command}` {what}; {way_out}, see {self._manual}{wrote}")

    def _exchange(self, unsent: bytes) -> bytes:
        stdin, stdout, stderr = self._streams
        deadline = time.monotonic() + self.timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            if unsent:
                selector.register(stdin, selectors.EVENT_WRITE)
            while unsent or b"\n" not in self._heard:
                left_s = deadline - time.monotonic()
                ready = {key.fileobj for key, _ in selector.select(left_s)} if left_s > 0 else set()
                if not ready:
                    silence = f"gave no answer within {self.timeout_s:g} s"
                    raise self.fault(silence, "try it by hand, or raise timeout_s")
                if stderr in ready and not _read_tail(stderr, self._tail):
                    selector.unregister(stderr)
                if stdout in ready:
                    part = stdout.read(PART_BYTES)
                    if part == b"":
                        raise self._death()
                    self._heard += part or b""
                if len(self._heard) > LONGEST_LINE:
                    raise self.fault(f"said more than {LONGEST_LINE} bytes at once", ANSWERS_ALONE)
                if stdin in ready:
                    try:
                        unsent = unsent[stdin.write(unsent) or 0 :]
                    except BrokenPipeError:  # the end of its output tells what happened
                        unsent = b""
                    if not unsent:
                        selector.unregister(stdin)
        line, _, rest = bytes(self._heard).partition(b"\n")
        self._heard = bytearray(rest)
        return line

    def _death(self) -> RuntimeError:
        code = self._end() or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return self.fault(f"{how} before it answered", "run it by hand to see why")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in ENVIRONMENT or name.startswith(PREFIXES)}


def _end(process: "subprocess.Popen[bytes]", streams: _Streams, tail: bytearray) -> int:
    """Ends a program and everything of its group, first by closing its input, and returns its exit code."""
    stdin, stdout, stderr = streams
    stdin.close()
    if not _ends_by_itself(stdout, stderr, tail):
        _signal_group(process.pid, signal.SIGTERM)
        _ends_by_itself(stdout, stderr, tail)
    _signal_group(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
    code = process.wait()
    _read_tail(stderr, tail)
    stdout.close()
    stderr.close()
    return code


def _ends_by_itself(stdout: IO[bytes], stderr: IO[bytes], tail: bytearray) -> bool:
    """Reads on until the program closes its output; False if that takes more than the grace."""
    deadline = time.monotonic() + GRACE_S
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        selector.register(stderr, selectors.EVENT_READ)
        while (left_s := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                if key.fileobj is stdout and stdout.read(PART_BYTES) == b"":
                    return True
                if key.fileobj is stderr and not _read_tail(stderr, tail):
                    selector.unregister(stderr)
    return False


def _read_tail(stderr: IO[bytes], tail: bytearray) -> bool:
    """Keeps the last of what was written; False at its end."""
    part = stderr.read(PART_BYTES)
    tail += part or b""
    del tail[:-TAIL_BYTES]
    return part != b""


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)

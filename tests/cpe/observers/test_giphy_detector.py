"""The wrapper of GIPHY's Celebrity Detector, run with a stand-in of the detector's classes."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from cpe.observers.people_program import ProgramObserver
from helpers.places import PROJECT

GIPHY = PROJECT / "scripts" / "giphy_detector.py"
MODEL_TRAINING = {
    "__init__": "",
    "utils": "def preprocess_image(face, size):\n    assert size == 224\n    return face",
    "helpers/__init__": "",
    "helpers/labels": """
class Label:
    def __init__(self, name):
        self.name = name
    def __repr__(self):
        return self.name
class Labels:
    def __init__(self, resources_path):
        print("Labels from", resources_path)
        self.labels_list = [Label("Ann_Other_[m.01_x]"), Label("Jay_Z_[g.1]")]
""",
    "helpers/face_recognizer": """
import os
class FaceRecognizer:
    def __init__(self, labels, resources_path, top_n, use_cuda):
        assert os.path.exists(os.path.join(resources_path, os.environ["APP_RECOGNITION_WEIGHTS_FILE"]))
        self.labels = labels.labels_list
    def perform(self, faces):
        if len(faces) > 2:
            raise ValueError("too many faces")
        return [([(self.labels[int(face)], 0.5 + face / 4), (self.labels[0], 0.1)], 0.2) for face in faces]
""",
    "preprocessors/__init__": "",
    "preprocessors/face_detection/__init__": "",
    "preprocessors/face_detection/face_detector": """
class FaceDetector:
    def __init__(self, data_dir, margin, use_cuda):
        assert margin == 0.2 and not use_cuda
    def perform_single(self, picture):
        assert picture.shape == (8, 8, 3) and str(picture.dtype) == "uint8"
        print("looking", flush=True)
        return [(number, None) for number in {0: [], 1: [1, 0], 2: [0, 0, 0]}[int(picture[0, 0, 0])]]
""",
}


def test_the_giphy_wrapper_speaks_the_contract_whatever_the_detector_prints(tmp_path: Path) -> None:
    for name, text in MODEL_TRAINING.items():
        path = tmp_path / "model_training" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    weights = tmp_path / "examples" / "resources" / "face_recognition" / "best_model_states.pkl"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    with ProgramObserver.open([sys.executable, str(GIPHY), str(tmp_path)], timeout_s=30) as observer:
        assert observer.labels == ("Ann Other", "Jay Z")
        assert observer.identity.startswith("giphy-celebrity-detector 9a129038d9a00aed, 2 labels ")
        values = observer.look([Image.new("RGB", (8, 8), (level, 9, 9)) for level in (0, 1)], ["", ""])
        assert values["identity"].tolist() == ["", "Jay Z"]
        assert values["identity_score"].tolist() == [0.0, 0.75]
        assert values["faces"].tolist() == [0, 2]
        with pytest.raises(RuntimeError, match=r"of 'a crowd': ValueError\(.too many faces"):
            observer.look([Image.new("RGB", (8, 8), (2, 9, 9))], ["a crowd"])

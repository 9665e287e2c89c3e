"""Wraps GIPHY's Celebrity Detector for CPE_IDENTITY_COMMAND; run by the Python of the detector's own environment.

    python giphy_detector.py CHECKOUT [--resources FOLDER] [--cuda]

CHECKOUT is a clone of Giphy/celeb-detection-oss; FOLDER holds its weights, by default CHECKOUT/examples/resources.
The contract is in docs/celebrity-detector.md. Kept to Python 3.6, which that detector was made for. Its weights are
pickles: run only what you trust.
"""

import argparse
import hashlib
import json
import os
import sys

FACE_SIZE_PX, FACE_MARGIN = 224, 0.2  # as the detector's own example has them
WEIGHTS = os.path.join("face_recognition", "best_model_states.pkl")


def main():
    parser = argparse.ArgumentParser(description="GIPHY's Celebrity Detector, asked in lines of JSON")
    parser.add_argument("checkout", help="clone of Giphy/celeb-detection-oss")
    parser.add_argument("--resources", help="folder of its weights (CHECKOUT/examples/resources)")
    parser.add_argument("--cuda", action="store_true", help="run on the GPU")
    options = parser.parse_args()
    resources = options.resources or os.path.join(options.checkout, "examples", "resources")

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print goes to standard error
    detector, recogniser, names, prepare = load(options.checkout, resources, options.cuda)
    version = digest(os.path.join(resources, WEIGHTS))
    say(answers, {"detector": "giphy-celebrity-detector", "version": version, "labels": sorted(names.values())})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            faces = recognise(request["picture"], detector, recogniser, names, prepare)
            say(answers, {"id": request["id"], "faces": faces})
        except Exception as error:
            say(answers, {"id": request["id"], "error": repr(error)})


def load(checkout, resources, cuda):
    sys.path.insert(0, checkout)
    os.environ["APP_RECOGNITION_WEIGHTS_FILE"] = WEIGHTS
    from model_training.helpers.face_recognizer import FaceRecognizer
    from model_training.helpers.labels import Labels
    from model_training.preprocessors.face_detection.face_detector import FaceDetector
    from model_training.utils import preprocess_image

    labels = Labels(resources_path=resources)
    detector = FaceDetector(resources, margin=FACE_MARGIN, use_cuda=cuda)
    recogniser = FaceRecognizer(labels=labels, resources_path=resources, top_n=5, use_cuda=cuda)
    names = {str(label): plain_name(str(label)) for label in labels.labels_list}
    return detector, recogniser, names, preprocess_image


def recognise(path, detector, recogniser, names, prepare):
    """Returns a face for each person, the one seen on most faces first, as the detector itself ranks them."""
    import numpy
    from PIL import Image

    picture = numpy.array(Image.open(path).convert("RGB"))
    crops = [prepare(face, FACE_SIZE_PX) for face, _ in detector.perform_single(picture)]
    people = [ranking[0] for ranking, _ in recogniser.perform(crops)]
    return [{"name": names[str(label)], "score": min(1.0, float(share))} for label, share in people]


def plain_name(label):
    """Turns Ann_Other_[m.01x] into Ann Other."""
    return label.split("_[", 1)[0].replace("_", " ")


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as weights:
        for part in iter(lambda: weights.read(2**20), b""):
            sha.update(part)
    return sha.hexdigest()[:16]


def say(answers, line):
    answers.write(json.dumps(line) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()

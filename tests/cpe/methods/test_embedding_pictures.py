"""On the embedded model: prompt embeddings with nothing attached erase as attached gates do."""

import pytest
import torch
from safetensors.torch import save_file

from cpe.embedded.observers import EmbeddedClassifier
from cpe.methods.lessons import Encoded, Lesson, Prompt
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.method import PINPOINT
from cpe.models.drawing import PictureJob, generate
from cpe.models.loading import load_pipeline
from cpe.models.text import encode_prompts
from cpe.terms.profiles import PROFILES
from cpe.terms.templates import fill
from helpers.learning import bench
from helpers.lists import LIST

NOUN, KEPT, SEEDS = "rose", "cat", 4


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("embedded", device="cpu")


@pytest.fixture(scope="module")
def eraser(pipe, tmp_path_factory):
    """A gate for a rose, trained as a list's is and read from its file."""
    folder = tmp_path_factory.mktemp("gate")

    def prompts(*names):
        return tuple(Prompt(fill(template, name), name) for name in names for template in LIST["templates"])

    anchors = prompts(*LIST["anchors"]["general"], *LIST["anchors"]["pool"])
    lesson = Lesson(NOUN, prompts(NOUN), prompts("object"), anchors, 0)
    texts = list(dict.fromkeys(["", *lesson.texts]))
    encoded = Encoded({text: row for row, text in enumerate(texts)}, encode_prompts(pipe, texts).half())
    config = PINPOINT.config("emoji", LIST["training"]["changes"])
    (piece,) = PINPOINT.train([lesson], encoded, pipe, config, bench(folder))
    save_file(dict(piece.tensors), folder / PINPOINT.file_name, dict(piece.metadata))
    return Eraser.load(folder)


def taken_for(pipe, noun, text=None):
    """Returns what the classifier takes pictures of a noun for; a text stands in place of the prompt."""
    jobs = [PictureJob(str(seed), f"a picture of a {noun}", seed, text=text) for seed in range(SEEDS)]
    return EmbeddedClassifier().look([picture for _, picture in generate(pipe, jobs, PROFILES["embedded"])], [])["noun"]


@pytest.mark.parametrize(("noun", "stays"), [(NOUN, False), (KEPT, True)])
def test_pictures_are_taken_for_what_those_with_attached_gates_are(pipe, eraser, noun, stays):
    assert list(taken_for(pipe, noun)) == [noun] * SEEDS, "it is there to be erased"
    with eraser.attached(pipe):
        attached = taken_for(pipe, noun)
    text = encode_prompts(pipe, [f"a picture of a {noun}"])
    changed = eraser.embeddings(text)
    torch.testing.assert_close(changed, eraser.embeddings(text, pipe), rtol=1e-3, atol=1e-3)
    given = taken_for(pipe, noun, changed[0])
    for found in (attached, given):
        assert ((found == noun) == stays).mean() >= 0.75
    assert ((attached == noun) == (given == noun)).mean() >= 0.75

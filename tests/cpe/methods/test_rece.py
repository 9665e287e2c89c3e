"""RECE: the texts that bring a concept back, and the edits that erase them, against plain least squares a matrix."""

import json

import torch
from safetensors.torch import save_file

from cpe import Erased
from cpe.methods.base import method_of
from cpe.methods.lessons import Bench, Encoded, Lesson, Prompt
from cpe.methods.rece.config import ReceConfig
from cpe.methods.rece.edit import text_map
from cpe.methods.uce.edit import text_map as uce_map
from helpers.tiny import TEXT_WIDTH, tiny_pipeline

NAMES = {"target": "cat", "surrogate": "thing", "anchors": "dog"}
PROMPTS = {role: tuple(Prompt(f"{before} {name}", name) for before in ("a", "one")) for role, name in NAMES.items()}
LESSON = Lesson("cat", **PROMPTS, seed=0)
TEXTS = ["", *LESSON.texts]
DOUBLE = {"dtype": torch.float64}


def encoded(width, tokens=9):
    table = torch.randn(len(TEXTS), tokens, width, generator=torch.Generator().manual_seed(0)).half()
    return Encoded({text: row for row, text in enumerate(TEXTS)}, table)


def place(prompt):
    return 2


def plain(matrices, texts, config):
    """Everything once more: tokens as rows, each matrix solved by itself, the adversary over all matrices at once."""
    rows = {role: torch.cat([t.double()[2:] for t in texts.of(p.text for p in PROMPTS[role])]) for role in PROMPTS}
    empty, cat, eye = texts.empty.double(), rows["target"], torch.eye(matrices[0].shape[1], **DOUBLE)

    def edited(now, from_rows):
        parts = [
            (config.erase_weight / len(from_rows), from_rows, rows["surrogate"]),
            (config.keep_weight / len(rows["anchors"]), rows["anchors"], rows["anchors"]),
            (config.keep_weight / len(empty), empty, empty),
            (config.ridge, eye, eye),
        ]
        given = torch.cat([weight**0.5 * inputs for weight, inputs, _ in parts])
        return [
            torch.linalg.lstsq(given, torch.cat([w**0.5 * t @ matrix.T for w, _, t in parts])).solution.T
            for matrix in now
        ]

    now = edited(matrices, cat)
    for _ in range(config.rounds):
        stacked = torch.cat([*now, config.adversary_ridge**0.5 * eye])
        wanted = torch.cat([matrix @ cat.T for matrix in matrices] + [0 * cat.T])
        back = torch.linalg.lstsq(stacked, wanted).solution.T
        now = edited(now, back)
    return now


def test_the_edit_is_what_plain_least_squares_give_round_by_round():
    texts, generator = encoded(8), torch.Generator().manual_seed(1)
    matrices = [torch.randn(rows, 8, generator=generator, **DOUBLE) for rows in (5, 7, 4)]
    for rounds in (1, 3):
        config = ReceConfig(rounds=rounds, keep_weight=0.7, ridge=0.3, adversary_ridge=0.05)
        found = torch.eye(8, **DOUBLE) + text_map([LESSON], texts, place, config, matrices).double()
        for matrix, wanted in zip(matrices, plain(matrices, texts, config), strict=True):
            assert torch.allclose(matrix @ found, wanted, atol=1e-4)
            assert not torch.allclose(matrix, wanted, atol=0.1)


def test_a_round_more_leaves_less_of_what_can_be_brought_back():
    """The distance at which the best text comes to what the concept was grows from UCE on."""
    texts, matrix = encoded(8), torch.randn(20, 8, generator=torch.Generator().manual_seed(2), **DOUBLE)
    cat = torch.cat([text.double()[2:] for text in texts.of(prompt.text for prompt in LESSON.target)])

    def left(change):
        edited = matrix @ (torch.eye(8, **DOUBLE) + change.double())
        stacked = torch.cat([edited, 0.3 * torch.eye(8, **DOUBLE)])
        wanted = torch.cat([matrix @ cat.T, torch.zeros(8, len(cat), **DOUBLE)])
        return (stacked @ torch.linalg.lstsq(stacked, wanted).solution - wanted).square().sum().item()

    config = ReceConfig(keep_weight=0.01, ridge=0.01, adversary_ridge=0.09)
    rounds = [left(text_map([LESSON], texts, place, config.model_copy(update={"rounds": n}), [matrix])) for n in (1, 2)]
    assert left(uce_map([LESSON], texts, place, config)) < rounds[0] < rounds[1]


def test_it_trains_on_a_pipeline_and_is_loaded_by_its_file(tmp_path):
    method, pipe = method_of("rece"), tiny_pipeline()
    texts, bench = encoded(TEXT_WIDTH, tokens=77), Bench(tmp_path, tmp_path / "checkpoint")
    (piece,) = method.train([LESSON], texts, pipe, method.config("emoji"), bench)
    (other,) = method_of("uce").train([LESSON], texts, pipe, method_of("uce").config("emoji"), bench)
    assert not torch.allclose(piece.tensors["text_map"], other.tensors["text_map"])
    save_file(dict(piece.tensors), tmp_path / method.file_name, dict(piece.metadata))
    erased = Erased.load(tmp_path)
    assert (erased.concepts, json.loads(piece.metadata["concepts"])) == (("cat",), ["cat"])
    with erased.attached(pipe):
        pass

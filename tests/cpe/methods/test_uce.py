"""UCE: one closed-form edit of the key and value matrices, against a least-squares solution of its own aim."""

import copy
import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from cpe import Erased, detach
from cpe.methods.base import method_of
from cpe.methods.erased import LARGEST_HEADER_BYTES
from cpe.methods.lessons import Bench, Encoded, Lesson, Prompt
from cpe.methods.uce.config import UceConfig
from cpe.methods.uce.edit import name_ends, text_map
from cpe.methods.weights import EditError, WeightEdit, read_edit
from cpe.models.sites import find_projections
from helpers.places import PROJECT
from helpers.tiny import TEXT_WIDTH, eraser_for, tiny_pipeline, tiny_variant

PROMPTS = ["a cat", "a drawing of a cat", "a thing", "a drawing of a thing", "a dog", "a drawing of a dog", ""]
ENDS = {"a": 2, "a drawing of a": 5}
CAT = tuple(Prompt(f"{before} cat", "cat") for before in ENDS)
THING = tuple(Prompt(f"{before} thing", "thing") for before in ENDS)
DOG = tuple(Prompt(f"{before} dog", "dog") for before in ENDS)
LESSON = Lesson("cat", CAT, THING, DOG, seed=0)


def encoded(width=12, tokens=9):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(len(PROMPTS), tokens, width, generator=generator).half()
    return Encoded({prompt: row for row, prompt in enumerate(PROMPTS)}, table)


def place(prompt):
    return ENDS[prompt.text.rpartition(" ")[0]]


@pytest.mark.parametrize("tokens", ["last", "tail"])
def test_the_edit_solves_its_own_least_squares(tokens):
    """Written out as rows, target beside input, and solved for each matrix by itself in float64."""
    config = UceConfig(tokens=tokens, erase_weight=2.0, keep_weight=0.7, ridge=0.3)
    texts, generator = encoded(), torch.Generator().manual_seed(1)
    matrix = torch.randn(5, 12, generator=generator, dtype=torch.float64)

    def rows(prompts, ends):
        found = [texts.of([prompt.text])[0].double() for prompt in prompts]
        return torch.cat(
            [text[end : end + 1] if tokens == "last" else text[end:] for text, end in zip(found, ends, strict=True)]
        )

    ends = list(ENDS.values())
    cat, thing, dog, empty = rows(CAT, ends), rows(THING, ends), rows(DOG, ends), texts.empty.double()
    parts = [  # weight a row, input, what it should be mapped like
        (2.0 / len(cat), cat, thing),
        (0.7 / len(dog), dog, dog),
        (0.7 / len(empty), empty, empty),
        (0.3, torch.eye(12, dtype=torch.float64), torch.eye(12, dtype=torch.float64)),
    ]
    given = torch.cat([weight**0.5 * inputs for weight, inputs, _ in parts])
    wanted = torch.cat([weight**0.5 * targets @ matrix.T for weight, _, targets in parts])
    solved = torch.linalg.lstsq(given, wanted).solution.T
    found = matrix + matrix @ text_map([LESSON], texts, place, config).double()
    assert (found - matrix).norm() > 0.1 * matrix.norm(), "it changes something"
    assert torch.allclose(found, solved, atol=1e-5)


def test_an_anchor_of_two_concepts_counts_once_and_nothing_to_erase_changes_nothing():
    texts, config = encoded(), UceConfig()
    twice = [LESSON, Lesson("thing", THING, CAT, DOG, seed=1)]
    apart = [LESSON, Lesson("thing", THING, CAT, (), seed=1)]
    assert torch.equal(text_map(twice, texts, place, config), text_map(apart, texts, place, config))
    same = Lesson("cat", CAT, CAT, DOG, seed=0)
    assert text_map([same], texts, place, config).abs().max() < 1e-6


def test_the_end_of_a_name_is_found_as_the_tokenizer_reads_it():
    tokenizer = tiny_pipeline().tokenizer
    ids = lambda text: tokenizer(text).input_ids[1:-1]  # noqa: E731
    prompts = [Prompt("a Golden Retriever in a garden", "golden retriever"), Prompt("an owl", "owl")]
    ends = name_ends(prompts, ids)
    for prompt, last in zip(prompts, ("retriever", "owl"), strict=True):
        read = tokenizer.convert_ids_to_tokens(tokenizer(prompt.text).input_ids)
        word = "".join(read[: ends[prompt] + 1]).replace("</w>", " ").split()[-1]
        assert word.endswith(last)
    with pytest.raises(ValueError, match="does not hold 'zebra'"):
        name_ends([Prompt("an owl", "zebra")], ids)


def edit_of(width=TEXT_WIDTH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return WeightEdit(["cat"], 0.1 * torch.randn(width, width, generator=generator))


@pytest.mark.parametrize("kind", ["text", "xl"])
def test_attached_the_projections_are_the_edited_ones_and_detached_what_they_were(kind):
    pipe = tiny_variant(kind)
    width = next(iter(find_projections(pipe.unet).values())).in_features
    edit = edit_of(width)
    before = copy.deepcopy(pipe.unet.state_dict())
    with edit.attached(pipe):
        sites = find_projections(pipe.unet)
        for name, value in pipe.unet.state_dict().items():
            path = name.removesuffix(".weight")
            if path in sites:
                assert torch.allclose(value, before[name] @ (torch.eye(width) + edit.text_map), atol=1e-6)
                assert not torch.equal(value, before[name])
            else:
                assert torch.equal(value, before[name]), name
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


def test_detach_without_the_edit_takes_it_off_also_from_a_copy():
    pipe = tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    edit_of().attach(pipe)
    twin = copy.deepcopy(pipe.unet)
    for network, taken in ((twin, twin), (pipe.unet, pipe)):
        assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
        detach(taken)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_two_erasers_never_meet_on_one_network():
    pipe = tiny_pipeline()
    gates, edit = eraser_for(pipe), edit_of()
    with edit.attached(pipe):
        for other in (gates, edit_of(seed=1)):
            with pytest.raises(RuntimeError, match=r"another eraser is attached.*cpe\.detach"):
                other.attach(pipe)
        with pytest.raises(RuntimeError, match="attached already"):
            edit.attach(pipe)
    with gates.attached(pipe), pytest.raises(RuntimeError, match="another eraser is attached"):
        edit.attach(pipe)
    edit.attach(pipe)
    edit.detach()


def test_what_cannot_be_edited_is_refused_and_left_alone():
    pipe = tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    with pytest.raises(EditError, match=f"expects text width 7, the pipeline has {TEXT_WIDTH}"):
        edit_of(7).attach(pipe)
    away = tiny_pipeline()
    away.unet.to("meta")
    with pytest.raises(RuntimeError, match="offloaded; attach first"):
        edit_of().attach(away)
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


def test_weights_that_were_replaced_since_are_never_said_to_be_put_back():
    pipe, edit = tiny_pipeline(), edit_of()
    before = copy.deepcopy(pipe.unet.state_dict())
    edit.attach(pipe)
    loaded = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    pipe.unet.load_state_dict(loaded, assign=True)
    with pytest.raises(RuntimeError, match="were replaced since they were edited"):
        edit.detach()
    pipe.unet.load_state_dict(before, assign=True)
    with pytest.raises(RuntimeError, match="or load the model again"):
        detach(pipe)


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "3"])
def test_the_edit_is_the_same_in_every_process(hash_seed):
    code = (
        "import hashlib, sys; sys.path.insert(0, 'tests'); sys.path.insert(0, 'tests/cpe/methods');"
        "from test_uce import LESSON, encoded, place, text_map, UceConfig;"
        "print(hashlib.sha256(text_map([LESSON], encoded(), place, UceConfig()).numpy().tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    here = text_map([LESSON], encoded(), place, UceConfig()).numpy().tobytes()
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest()


def trained(folder, seed=0):
    folder.mkdir()
    method, pipe = method_of("uce"), tiny_pipeline()
    table = torch.randn(len(PROMPTS), 77, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed)).half()
    texts = Encoded({prompt: row for row, prompt in enumerate(PROMPTS)}, table)
    bench = Bench(folder / "cache", folder / "checkpoint")
    (piece,) = method.train([LESSON], texts, pipe, method.config("emoji"), bench)
    save_file(dict(piece.tensors), folder / method.file_name, dict(piece.metadata))
    return folder / method.file_name


def cut(file, path):
    path.write_bytes(file.read_bytes()[:-9])
    return path


def test_what_was_trained_is_loaded_by_its_file_whatever_lies_beside_it(tmp_path):
    file = trained(tmp_path / "one")
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "one" / "unet.safetensors")
    for given in (file, tmp_path / "one", [file, tmp_path / "one"]):
        erased = Erased.load(given)
        assert isinstance(erased, WeightEdit)
        assert erased.concepts == ("cat",)
        assert erased.openness(torch.zeros(1, 77, TEXT_WIDTH)) is None
    for lost in (tmp_path / "nothing-here", cut(file, tmp_path / "cut.safetensors")):
        with pytest.raises(FileNotFoundError, match="does not exist, is damaged, or holds nothing of the method 'uce'"):
            Erased.load([file, lost])
    other = trained(tmp_path / "two", seed=1)
    with pytest.raises(EditError, match="each for a whole list; load one of them"):
        Erased.load([file, other])


def test_a_file_that_its_manifest_does_not_name_is_refused_and_so_is_a_huge_header(tmp_path):
    file = trained(tmp_path / "one")
    manifest = file.with_name("manifest.json")
    manifest.write_text(json.dumps({"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}))
    assert Erased.load(file).concepts == ("cat",)
    manifest.write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(EditError, match="is not the file its manifest names"):
        Erased.load(file)
    huge = tmp_path / "huge.safetensors"
    huge.write_bytes((LARGEST_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (LARGEST_HEADER_BYTES + 1))
    with pytest.raises(ValueError, match="a header of"):
        Erased.load(huge)
    with pytest.raises(EditError, match="a header of"):
        read_edit([huge])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_edit([tmp_path / "none"])


def broken(file, **metadata):
    save_file({"text_map": torch.zeros(3, 3)}, file, {"method": "uce", **metadata})


def test_files_that_cannot_be_used_say_why(tmp_path):
    from cpe.methods.pinpoint.storage.files import metadata_of, to_tensors

    file = tmp_path / "edit.safetensors"
    broken(file, concepts="cat")
    with pytest.raises(EditError, match="names no concepts"):
        Erased.load(file)
    broken(file, concepts=json.dumps(["cat"]), method="later")
    with pytest.raises(ValueError, match=r"of the method 'later', which is not known here; there are cpe, uce"):
        Erased.load(file)
    for tensor, words in (
        (torch.zeros(3, 4), "expected a square matrix"),
        (torch.full((3, 3), torch.nan), "no finite number"),
        (torch.zeros(3, 3, dtype=torch.int32), "no finite number"),
    ):
        save_file({"text_map": tensor}, file, {"method": "uce", "concepts": '["cat"]'})
        with pytest.raises(EditError, match=words):
            Erased.load(file)
    save_file({"other": torch.zeros(3, 3)}, file, {"method": "uce", "concepts": '["cat"]'})
    with pytest.raises(EditError, match="damaged"):
        Erased.load(file)
    part = eraser_for(tiny_pipeline())._parts[0]
    save_file(to_tensors(part.gates, part.sites), tmp_path / "gate.safetensors", metadata_of(part.gates, part.concepts))
    with pytest.raises(ValueError, match=r"of several methods \((uce, cpe|cpe, uce)\)"):
        Erased.load(tmp_path)

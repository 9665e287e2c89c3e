"""The people of the embedded model: their names, what tells them apart, the captions and looks of their pictures."""

import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from cpe.embedded.classifier import PictureClassifier
from cpe.embedded.making.casting import FAMILY, GIVEN, compose_names, further_names
from cpe.embedded.making.data import ANY_PERSON, Matches, Pictures, load_captions
from cpe.embedded.making.looks import LARGE_PX, OPERATIONS
from cpe.embedded.making.traits import DRAWINGS
from cpe.embedded.people import LOOKS, NOBODY, all_people_captions, people, people_table
from cpe.embedded.subjects import NOUNS, STYLES
from cpe.lists.reading import load_list
from cpe.models.loading import EMBEDDED_FOLDER
from scripts import embedded_parts as parts


def test_names_are_shared_and_nobody_bears_anothers():
    names = [name.split() for name in people()]
    assert len(names) == len(set(map(tuple, names))) == 150
    assert set(Counter(given for given, _ in names).values()) <= {3, 4, 5}
    assert set(Counter(family for _, family in names).values()) <= {2, 3}


def test_nobody_is_called_as_somebody_of_the_published_list():
    published = load_list("lists/celebs.yaml")
    known = {name.lower() for name in (*published.erased_names, *published.kept)}
    assert not known & {name.lower() for name in (*people(), *people_table()["further"])}


def test_further_names_are_nobodys():
    further = people_table()["further"]
    assert len(set(further)) == len(further)
    assert not set(further) & set(people())


def test_names_come_out_the_same_and_differ_by_seed():
    names = compose_names(150, seed=0)
    assert list(people()) == names
    assert compose_names(150, seed=1) != names
    assert further_names(names, 120, seed=0) == people_table()["further"]


def test_more_names_than_there_are_pairs_are_refused():
    with pytest.raises(ValueError, match="add words"):
        compose_names(len(GIVEN) * len(FAMILY) + 1, seed=0)


def test_two_people_of_one_drawing_style_differ_in_a_trait_and_some_in_one_alone():
    table = people_table()["people"]
    differences = [
        sum(one["traits"][trait] != other["traits"][trait] for trait in one["traits"])
        for one, other in combinations(table, 2)
        if one["drawing"] == other["drawing"]
    ]
    assert min(differences) == 1
    assert Counter(each["drawing"] for each in table) == dict.fromkeys(DRAWINGS, 25)


def test_each_name_is_two_tokens():
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer")
    for name in (*people(), *people_table()["further"]):
        assert len(tokenizer(name).input_ids) == 2 + 2, name  # between those that begin and end a text


def test_captions_are_true_of_their_pictures_alone():
    captions = load_captions()
    rows = {text: row for row, text in enumerate(captions.texts)}
    first, second = people()[:2]
    subjects = torch.tensor([0, len(NOUNS), len(NOUNS) + 1, len(NOUNS)])
    manners = torch.tensor([0, len(STYLES), len(STYLES) + 2, len(STYLES) + 2])  # noto, plain, sketch, sketch
    asked = [
        f"a sketch of {first}",
        f"an image of {first}",
        "a sketch of a person",
        f"{second}",
        "a picture of an object",
        "an image of a person",
    ]
    true = captions.true_of(torch.tensor([rows[text] for text in asked]), subjects, manners)
    assert true.int().tolist() == [
        [0, 0, 0, 1],
        [0, 1, 0, 1],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 1, 1, 1],
    ]


def test_no_caption_says_two_things():
    texts = [text for text, _, _ in all_people_captions()]
    assert len(set(texts)) == len(texts) == 151 * (sum(map(len, LOOKS.values())) + 2)


def test_matches_are_true():
    captions = load_captions()
    count = len(NOUNS) * len(STYLES)
    pictures = Pictures(
        torch.zeros(count + 150 * len(LOOKS), 3, 64, 64, dtype=torch.uint8),
        torch.cat([torch.arange(count) // len(STYLES), len(NOUNS) + torch.arange(150 * len(LOOKS)) // len(LOOKS)]),
        torch.cat([torch.arange(count) % len(STYLES), len(STYLES) + torch.arange(150 * len(LOOKS)) % len(LOOKS)]),
    )
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(captions.texts), generator=generator)[:200]
    chosen = Matches(pictures, captions).draw(rows, generator)
    true = captions.true_of(rows, pictures.subjects[chosen], pictures.manners[chosen])
    assert true.diagonal().all()
    assert (captions.subjects[rows] == ANY_PERSON).any() or len(rows) < len(captions.texts)


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_is_the_same_for_one_draw_and_shows_who_it_is(look):
    pictures = [np.asarray(OPERATIONS[look](_somebody(hair), random.Random(3)), float) for hair in ("black", "yellow")]
    again = np.asarray(OPERATIONS[look](_somebody("black"), random.Random(3)), float)
    assert pictures[0].shape == (64, 64, 3)
    np.testing.assert_array_equal(pictures[0], again)
    assert np.abs(pictures[0] - pictures[1]).mean() > 3


def test_looks_are_told_apart():
    pictures = [np.asarray(OPERATIONS[look](_somebody("black"), random.Random(3)), float) for look in LOOKS]
    assert min(np.abs(one - other).mean() for one, other in combinations(pictures, 2)) > 10


def _somebody(hair: str) -> Image.Image:
    """Returns a head with hair, on nothing."""
    picture = Image.new("RGBA", (LARGE_PX, LARGE_PX))
    pen = ImageDraw.Draw(picture)
    pen.ellipse([34, 20, 94, 80], fill=hair)
    pen.ellipse([40, 36, 88, 90], fill="peru")
    pen.rectangle([30, 90, 98, 127], fill="seagreen")
    return picture


def test_parts_that_are_trained_come_back_as_they_were_kept(tmp_path):
    parts.restore(tmp_path / "first")
    parts.keep(tmp_path / "first", tmp_path / "again")
    kept = sorted(path.relative_to(parts.PARTS) for path in parts.PARTS.rglob("*.safetensors"))
    assert [str(path) for path in kept] == [
        "identity/model.safetensors",
        "text.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    for path in kept:
        one, other = load_file(parts.PARTS / path), load_file(tmp_path / "again" / path)
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-6, atol=0)
    assert PictureClassifier.load(tmp_path / "first" / "identity").nouns == (*people(), NOBODY)

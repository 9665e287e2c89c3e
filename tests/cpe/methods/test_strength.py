"""A concept taken out of an eraser, or made weaker: exact, while attached too, and never stale."""

import copy
import pickle

import pytest
import torch

from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.storage.checks import GateFileError
from cpe.methods.pinpoint.storage.files import LoadedGates
from helpers.tiny import gates_for, tiny_pipeline

NAMES = ("owl", "fox", "tree")


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def parts(pipe):
    """Three gates of one shape and one of another, whose concept is there twice."""
    loaded = gates_for(pipe, GateConfig(gate_rank=4, adapter_rank=2, alpha=0.5), count=3, seed=1)
    other = gates_for(pipe, GateConfig(gate_rank=2, adapter_rank=1, alpha=0.5), count=1, seed=2)
    return [LoadedGates(NAMES, loaded.sites, loaded.gates), LoadedGates(("owl",), other.sites, other.gates)]


@pytest.fixture
def eraser(parts):
    return Eraser(parts)


@pytest.fixture(scope="module")
def text():
    """Text (B, T, D) whose tokens are won by different gates."""
    return torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))


def draw(pipe, prompt="a tiger"):
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent", "height": 16, "width": 16}
    return pipe(prompt, generator=generator, **options).images


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[site], other[site]) for site in one)


def winners(eraser, text):
    return eraser.openness(text).argmax(dim=0)  # (B, T); of tiny gates none is so open that two round alike


def test_strength_1_is_what_it_was_bit_for_bit(text, eraser, parts):
    plain = Eraser(parts).residuals(text)
    eraser.strength["owl"] = 0.25
    assert not same(eraser.residuals(text), plain)
    eraser.strength["owl"] = 1
    assert same(eraser.residuals(text), plain)


@pytest.mark.parametrize("strength", [0, 0.5, 2.0])
def test_a_strength_scales_what_its_own_gates_add_and_nothing_else(text, eraser, parts, strength):
    owls = torch.isin(winners(eraser, text), torch.tensor([0, 3]))[..., None]
    assert owls.any(), "tokens that the concept wins"
    assert not owls.all(), "and others"
    eraser.strength["owl"] = strength
    found = eraser.residuals(text)
    for site, before in Eraser(parts).residuals(text).items():
        torch.testing.assert_close(found[site], torch.where(owls, strength * before, before))


def test_strength_0_of_the_only_concept_draws_the_untouched_picture(pipe, parts):
    before = draw(pipe)
    eraser = Eraser(parts[:1]).without("fox", "tree")
    with eraser.attached(pipe):
        assert not torch.equal(draw(pipe), before)
        eraser.strength["owl"] = 0
        assert torch.equal(draw(pipe), before)


def test_a_strength_set_while_attached_holds_at_once_and_for_copies_of_the_network(pipe, text, eraser, parts):
    with eraser.attached(pipe):
        twin, gone = copy.deepcopy(pipe), copy.deepcopy(pipe)
        whole = draw(pipe)
        assert torch.equal(draw(twin), whole)
        from cpe import detach

        detach(gone)
        for name in NAMES:
            eraser.strength[name] = 0.5
        halved = draw(pipe)
        assert not torch.equal(halved, whole)
        assert torch.equal(draw(twin), halved)
        assert torch.equal(draw(gone), draw(tiny_pipeline()))
    weak = Eraser(parts)
    for name in NAMES:
        weak.strength[name] = 0.5
    assert same(weak.residuals(text), eraser.residuals(text))
    with weak.attached(pipe):
        assert torch.equal(draw(pipe), halved)


def test_without_is_the_eraser_that_was_loaded_without_those_gates(text, eraser, parts):
    rest = torch.tensor([1, 2])
    expected = Eraser([LoadedGates(("fox", "tree"), parts[0].sites, parts[0].gates[rest])])
    left = eraser.without("owl")
    assert left.concepts == ("fox", "tree")
    assert same(left.residuals(text), expected.residuals(text))
    assert torch.equal(left.openness(text), expected.openness(text))
    assert eraser.concepts == (*NAMES, "owl"), "the eraser itself stays as it is"


def test_what_is_left_keeps_its_strength_and_goes_its_own_way(eraser):
    eraser.strength["fox"] = 0.5
    left = eraser.without("owl")
    assert left.strength == {"fox": 0.5, "tree": 1.0}
    left.strength["tree"] = 0
    assert eraser.strength["tree"] == 1


def test_unknown_names_and_bad_strengths_are_one_clear_error(eraser):
    with pytest.raises(ValueError, match=r"'oul' is not erased here; did you mean 'owl'\? known: owl, fox, tree$"):
        eraser.without("fox", "oul")
    with pytest.raises(KeyError, match="'oul' is not erased here"):
        eraser.strength["oul"] = 0.5
    for bad in (-0.1, 2.1, float("nan"), "half", True, None):
        with pytest.raises(ValueError, match=r"strength\['owl'\] must be a number from 0"):
            eraser.strength["owl"] = bad
    assert eraser.strength["owl"] == 1
    with pytest.raises(GateFileError, match="nothing is left to erase"):
        eraser.without(*NAMES)


def test_an_eraser_says_what_it_erases(pipe, eraser):
    eraser.strength["fox"] = 0.5
    assert repr(eraser) == "<Eraser of 3 concepts: owl, fox × 0.5, tree>"
    assert repr(eraser.without("owl", "fox")) == "<Eraser of 1 concept: tree>"
    with eraser.attached(pipe):
        assert repr(eraser).endswith(", attached>")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda eraser: pickle.loads(pickle.dumps(eraser))])
def test_copies_have_strengths_of_their_own(text, eraser, copied):
    eraser.strength["owl"] = 0.5
    other = copied(eraser)
    assert other.strength == eraser.strength
    other.strength["owl"] = 2
    assert eraser.strength["owl"] == 0.5
    assert not same(other.residuals(text), eraser.residuals(text))

"""What whoever holds the files can undo, of every way of erasing: as the table says it, and as it is."""

import copy

import pytest
import torch

from cpe.methods.base import BESIDE, IN_WEIGHTS, method_of
from cpe.methods.negative.eraser import NegativeNames
from cpe.methods.robust.eraser import MappedTexts
from cpe.methods.robust.maps import TextMap
from cpe.methods.table import METHODS
from cpe.methods.weights import LayerEdit, WeightEdit
from cpe.models.sites import find_projections
from helpers.tiny import TEXT_WIDTH, draw_variant, eraser_for, tiny_pipeline


def drawn_at_random(*shape, scale=0.1, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mapped(pipe):
    keys, values = drawn_at_random(4, TEXT_WIDTH, seed=1), drawn_at_random(4, TEXT_WIDTH, scale=1.0, seed=2)
    return MappedTexts({"cat": TextMap(keys=keys, thresholds=torch.zeros(4), values=values)})


def one_map(pipe):
    return WeightEdit(["cat"], drawn_at_random(TEXT_WIDTH, TEXT_WIDTH))


def layers(pipe):
    return LayerEdit(
        ["cat"], {path: drawn_at_random(*m.weight.shape) for path, m in find_projections(pipe.unet).items()}
    )


def negative(pipe):
    return NegativeNames(["cat"], "cat", pipe.encode_prompt("cat", "cpu", 1, False)[0][0].detach(), 2.0)


ERASED = {
    "cpe": eraser_for, "cpe-robust": mapped, "negative-prompt": negative, "uce": one_map, "rece": one_map,
    "speed": layers, "mace": layers, "esd-x": layers, "esd-u": layers, "concept-ablation": layers,
}  # fmt: skip


def differs(one, other):
    return any(not torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_model_holds_what_was_erased_where_it_lies_in_the_weights_and_there_alone(name):
    pipe = tiny_pipeline()
    erased, before = ERASED[name](pipe), copy.deepcopy(pipe.unet.state_dict())
    untouched = draw_variant(pipe)
    with erased.attached(pipe):
        saved = copy.deepcopy(pipe.unet.state_dict())
        assert not torch.equal(draw_variant(pipe), untouched)
    assert differs(saved, before) == (method_of(name).removal == IN_WEIGHTS)
    assert (method_of(name).removal == BESIDE) == (name in ("cpe", "cpe-robust"))
    assert not differs(pipe.unet.state_dict(), before), "the base model is what it was, bit for bit"
    assert torch.equal(draw_variant(pipe), untouched)


def test_an_edits_own_file_takes_it_off_a_model_that_was_saved_with_it():
    pipe = tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    for erased in (one_map(pipe), layers(pipe)):
        with erased.attached(pipe):
            saved = copy.deepcopy(pipe.unet.state_dict())
        for path in find_projections(pipe.unet):
            changed = saved[f"{path}.weight"]
            if isinstance(erased, WeightEdit):  # W' = W (I + map)
                back = torch.linalg.solve(torch.eye(TEXT_WIDTH) + erased.text_map, changed, left=False)
            else:
                back = changed - erased.deltas[path]
            assert not torch.equal(changed, before[f"{path}.weight"])
            torch.testing.assert_close(back, before[f"{path}.weight"], rtol=1e-4, atol=1e-5)

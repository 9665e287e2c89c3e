"""Spectral norms and M: computed once per base model, found again by its content, and those of the formulas."""

import pytest
import torch

import cpe.models.projections
from benchmarks import plain
from cpe.models.projections import BaseProjections
from helpers.small import TOKENS, small_unet


@pytest.fixture
def computed(monkeypatch):
    calls = []
    summary = cpe.models.projections._summary
    monkeypatch.setattr(cpe.models.projections, "_summary", lambda *given: calls.append(1) or summary(*given))
    return calls


def of(unet, cache, tokens=TOKENS) -> BaseProjections:
    return BaseProjections.of(unet, tokens=tokens, dtype=torch.float64, cache=cache)


def test_weights_and_m_are_those_of_the_formulas(tmp_path):
    unet = small_unet()
    state = {name: value.double() for name, value in unet.state_dict().items()}
    base = of(unet, tmp_path)
    share = 1 / (TOKENS * len(base.names))
    travel = plain.site_weights(state, base.names, TOKENS)
    expected = torch.tensor([t * share / o for t, o in zip(travel, base.widths, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(base.weights, expected)
    matrices = [state[f"{name}.weight"] for name in base.names]
    gram = sum(c * w.T @ w for c, w in zip(expected, matrices, strict=True))
    torch.testing.assert_close(base.gram, gram)
    assert all(torch.equal(ours, matrix) for ours, matrix in zip(base.matrices, matrices, strict=True))


def test_the_same_weights_are_summed_up_once(tmp_path, computed):
    first, again = of(small_unet(), tmp_path), of(small_unet(), tmp_path)
    assert len(computed) == 1
    assert torch.equal(first.gram, again.gram)
    assert torch.equal(first.weights, again.weights)


@pytest.mark.parametrize("part", ["to_q", "to_k", "to_v", "to_out.0"])
def test_any_changed_weight_is_another_model(part, tmp_path, computed):
    of(small_unet(), tmp_path)
    changed = small_unet()
    changed.get_submodule(f"blocks.1.attn2.{part}").weight.data[0, 0] += 1
    got = of(changed, tmp_path)
    assert len(computed) == 2
    assert torch.equal(got.weights, of(changed, None).weights)
    of(changed, tmp_path, tokens=TOKENS + 1)
    assert len(computed) == 4, "another number of tokens weighs otherwise"


def test_a_cut_off_summary_is_computed_again(tmp_path, computed):
    expected = of(small_unet(), tmp_path).gram
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-8])
    assert torch.equal(of(small_unet(), tmp_path).gram, expected)
    assert len(computed) == 2
    assert [found.name for found in tmp_path.iterdir()] == [kept.name]

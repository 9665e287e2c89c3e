"""One change of the text in place of all residuals: the least-squares one, from a model or from gates' files alone."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.embedding import changes_of
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.storage.checks import CHANGE, GateFileError
from cpe.methods.pinpoint.storage.files import LoadedGates, metadata_of, to_tensors
from cpe.models.projections import BaseProjections
from cpe.models.sites import find_projections
from cpe.models.text import encode_prompts
from helpers.tiny import tiny_variant
from helpers.tiny_transformers import shared_transformer

PROMPTS = ["a tiger", "a portrait of a rose", ""]
CONFIGS = [GateConfig(gate_rank=4), GateConfig(gate_rank=3, adapter_rank=2, alpha=0.5, tied_qk=False)]


def gates_of(base, config, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    fresh = Gates.fresh(config, base.text_width, base.widths, [generator] * count)
    drawn = fresh.map(lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64) * 0.3)
    return LoadedGates(tuple(f"concept {seed} {n}" for n in range(count)), base.names, drawn)


@pytest.fixture(params=["text", "xl"])
def case(request):
    """A tiny model's texts, projections in float64, and an eraser of gates of two shapes."""
    pipe = tiny_variant(request.param)
    text = encode_prompts(pipe, PROMPTS).double()
    base = BaseProjections.of(pipe.unet, tokens=text.shape[1], dtype=torch.float64)
    return pipe, text, base, Eraser([gates_of(base, config, seed=seed) for seed, config in enumerate(CONFIGS)])


def test_the_normal_equations_hold(case):
    pipe, text, base, eraser = case
    moved = eraser.embeddings(text, pipe) - text
    residuals, left, size = eraser.residuals(text), 0.0, 0.0
    for name, matrix, weight in zip(base.names, base.matrices, base.weights, strict=True):
        left = left + weight * (moved @ matrix.T - residuals[name]) @ matrix  # (B, T, D)
        size = size + weight * (residuals[name] @ matrix).abs()
    assert moved.abs().max() > 0.01, "the gates matter"
    assert (left.abs().max() / size.max()).item() < 1e-8


def test_keys_and_values_get_the_least_squares_part_of_the_residuals(case):
    pipe, text, base, eraser = case
    moved = eraser.embeddings(text, pipe) - text
    roots = [weight.sqrt() for weight in base.weights]
    stacked = torch.cat([root * matrix for root, matrix in zip(roots, base.matrices, strict=True)])  # (ΣO, D)
    residuals = eraser.residuals(text)
    wanted = torch.cat([root * residuals[name] for root, name in zip(roots, base.names, strict=True)], dim=2)
    left, values, _ = torch.linalg.svd(stacked, full_matrices=False)
    left = left[:, values > 1e-9 * values[0]]  # the directions that a change of the text reaches
    part = wanted @ left @ left.T  # (B, T, ΣO)
    assert 0 < part.norm() < wanted.norm()
    torch.testing.assert_close(moved @ stacked.T, part, rtol=1e-7, atol=1e-9 * wanted.abs().max().item())


def test_no_other_change_of_the_text_comes_nearer(case):
    pipe, text, base, eraser = case
    residuals, best = eraser.residuals(text), eraser.embeddings(text, pipe) - text

    def error(moved):
        rows = zip(base.names, base.matrices, base.weights, strict=True)
        return sum(weight * (moved @ matrix.T - residuals[name]).square().sum() for name, matrix, weight in rows)

    generator = torch.Generator().manual_seed(0)
    least = error(best)
    for scale in (1e-3, 1e-1, 1.0):
        assert error(best + scale * torch.randn(best.shape, generator=generator, dtype=best.dtype)) > least


def test_fresh_gates_and_no_strength_leave_the_text_as_it_is(case):
    pipe, text, base, eraser = case
    for name in eraser.concepts:
        eraser.strength[name] = 0
    assert torch.equal(eraser.embeddings(text, pipe), text)
    half = Eraser([gates_of(base, CONFIGS[0])])
    whole = half.embeddings(text[0], pipe) - text[0]
    for name in half.concepts:
        half.strength[name] = 0.5
    torch.testing.assert_close(half.embeddings(text[0], pipe) - text[0], whole / 2)


def test_files_stand_for_the_model(case, tmp_path):
    pipe, text, base, eraser = case
    for number, config in enumerate(CONFIGS):
        part = gates_of(base, config, seed=number)
        tensors = to_tensors(part.gates, part.sites, changes_of(part.gates, base))
        save_file(tensors, tmp_path / f"{number}.safetensors", metadata_of(part.gates, part.concepts))
    loaded, expected = Eraser.load(tmp_path), eraser.embeddings(text, pipe)
    torch.testing.assert_close(loaded.embeddings(text), expected)
    torch.testing.assert_close(copy.deepcopy(loaded).embeddings(text), expected)
    fewer, alone = loaded.without(*loaded.concepts[1:]), Eraser([gates_of(base, CONFIGS[0])])
    expected = alone.without(*loaded.concepts[1:3]).embeddings(text, pipe)
    torch.testing.assert_close(fewer.embeddings(text), expected)


def test_a_file_with_another_number_of_rows_is_refused(tmp_path):
    base = BaseProjections.of(tiny_variant("text").unet, tokens=8, dtype=torch.float64)
    part = gates_of(base, CONFIGS[0])
    tensors = to_tensors(part.gates, part.sites, changes_of(part.gates, base))
    tensors[CHANGE] = tensors[CHANGE][:, 1:].contiguous()
    save_file(tensors, tmp_path / "gate.safetensors", metadata_of(part.gates, part.concepts))
    with pytest.raises(GateFileError, match=r"text_change' has shape .*, expected"):
        Eraser.load(tmp_path)


def test_what_cannot_be_is_refused(case):
    _, text, _, eraser = case
    with pytest.raises(ValueError, match="give the base model as `pipe`"):
        eraser.embeddings(text)
    with pytest.raises(ValueError, match="layers of its own before its attentions"):
        eraser.embeddings(text, shared_transformer("pixart"))
    with pytest.raises(ValueError, match="another base model"):
        eraser.embeddings(text, tiny_variant("xl" if text.shape[2] == 32 else "text"))


def test_another_model_and_another_length_are_reckoned_anew():
    first, second = (tiny_variant("text") for _ in range(2))
    for module in find_projections(second.unet).values():
        module.weight.data.mul_(torch.linspace(0.5, 2, module.weight.shape[1]))
    base = BaseProjections.of(first.unet, tokens=8, dtype=torch.float64)
    text = encode_prompts(first, PROMPTS[:1]).double()
    shared, own = (Eraser([gates_of(base, CONFIGS[0])]) for _ in range(2))
    shared.embeddings(text, first)
    for model, given in ((second, text), (first, text[:, :20]), (first, text)):
        again = Eraser([gates_of(base, CONFIGS[0])]).embeddings(given, model)
        assert torch.equal(shared.embeddings(given, model), again)
    assert not torch.allclose(own.embeddings(text, second), shared.embeddings(text, first))


@pytest.mark.parametrize("kind", ["text", "xl"])
def test_a_pipelines_encoder_gives_them_with_guidance_too_and_is_given_back(kind):
    pipe = tiny_variant(kind)
    base = BaseProjections.of(pipe.unet, tokens=77)
    part = gates_of(base, CONFIGS[0])
    eraser = Eraser([LoadedGates(part.concepts, part.sites, part.gates.map(torch.Tensor.float))])

    def draw():
        noise = torch.Generator().manual_seed(0)
        given = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent", "height": 16, "width": 16}
        return pipe(PROMPTS[0], negative_prompt="a rose", generator=noise, **given).images

    before = draw()
    expected = [eraser.embeddings(encode_prompts(pipe, [text]), pipe) for text in (PROMPTS[0], "a rose")]
    with eraser.encoding(pipe):
        given = pipe.encode_prompt(
            PROMPTS[0],
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            negative_prompt="a rose",
        )
        during = draw()
    for found, text in zip(given, expected, strict=False):
        torch.testing.assert_close(found, text)
    assert not torch.allclose(during, before)
    assert torch.equal(draw(), before)
    with pytest.raises(ValueError, match="give the pipeline"), eraser.encoding(pipe.unet):
        pass
    with pytest.raises(ValueError, match="layers of its own"), eraser.encoding(shared_transformer("pixart")):
        pass

"""Transformer families: text enters where their class says, padding is left out, and gates come and go."""

import copy
import warnings

import pytest
import torch

from cpe.methods.pinpoint.batch import ConceptTexts
from cpe.methods.pinpoint.config import GateConfig, TrainingConfig
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.storage.files import LoadedGates
from cpe.methods.pinpoint.training import train
from cpe.models.drawing import PictureJob, generate
from cpe.models.families.table import family_of, sites_of
from cpe.models.fingerprints import fingerprint, text_fingerprint
from cpe.models.loading import load_pipeline
from cpe.models.padding import present
from cpe.models.projections import BaseProjections
from cpe.models.text import encode_prompts
from cpe.terms.profiles import Profile
from helpers.tiny_transformers import DRAWING, FAMILIES, draw_tiny, shared_transformer, tiny_transformer

PROMPT, LONGER = "a tiger on a tree", "a portrait of a tiger by an artist in the park"


def gates_of(pipe, *, scale: float = 0.5, count: int = 2, seed: int = 0) -> Eraser:
    """Returns random gates over a pipeline's projections; scale 0 leaves them fresh."""
    base = BaseProjections.of(pipe.transformer, tokens=10)
    generator = torch.Generator().manual_seed(seed)
    gates = Gates.fresh(GateConfig(gate_rank=4), base.text_width, base.widths, [generator] * count)
    if scale:
        gates = gates.map(lambda t: torch.randn(t.shape, generator=generator) * scale)
    return Eraser([LoadedGates(tuple(f"concept {n}" for n in range(count)), base.names, gates)])


def seen_by(pipe, kind, prompt):
    """Returns what every projection is given while a pipeline draws without guidance, (B, T, D) by site."""
    seen, handles = {}, []
    for site, module in sites_of(pipe).items():
        handles.append(module.register_forward_pre_hook(lambda _, args, site=site: seen.setdefault(site, args[0])))
    draw_tiny(pipe, kind, prompt, guidance_scale=1.0)
    for handle in handles:
        handle.remove()
    return seen


def by_hand(pipe, kind, eraser, prompt):
    """Returns what is drawn with the residuals of the prompt's own text put in by plain hooks."""
    residuals = eraser.residuals(encode_prompts(pipe, [prompt]))
    handles = [
        module.register_forward_hook(lambda _, args, out, site=site: out + residuals[site][:, : out.shape[1]])
        for site, module in sites_of(pipe).items()
    ]
    drawn = draw_tiny(pipe, kind, prompt, guidance_scale=1.0)
    for handle in handles:
        handle.remove()
    return drawn


@pytest.fixture(params=sorted(FAMILIES))
def kind(request):
    return request.param


def test_what_the_sites_see_is_what_is_encoded(kind):
    pipe = shared_transformer(kind)
    text = encode_prompts(pipe, [PROMPT])
    read = present(text)[0]
    assert 0 < read.sum() < len(read), "there is padding"
    for seen in seen_by(pipe, kind, PROMPT).values():
        short = seen.shape[1]  # Latte leaves padding out of a single prompt by itself
        if kind == "latte":  # the same rows out of a shorter product, whose last bits differ
            torch.testing.assert_close(seen[0][read[:short]], text[0][read], rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(seen[0][read[:short]], text[0][read])


def test_a_fresh_gate_changes_nothing(kind):
    pipe = shared_transformer(kind)
    before = draw_tiny(pipe, kind, PROMPT)
    with gates_of(pipe, scale=0).attached(pipe):
        assert torch.equal(draw_tiny(pipe, kind, PROMPT), before)


def test_open_gates_draw_what_residuals_put_in_by_hand_do_and_come_off_again(kind):
    pipe = shared_transformer(kind)
    eraser, before = gates_of(pipe), draw_tiny(pipe, kind, PROMPT, guidance_scale=1.0)
    expected = by_hand(pipe, kind, eraser, PROMPT)
    assert not torch.allclose(expected, before, rtol=1e-3), "the gates matter"
    with eraser.attached(pipe):
        drawn = draw_tiny(pipe, kind, PROMPT, guidance_scale=1.0)
        guided = draw_tiny(pipe, kind, [PROMPT, LONGER])
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
    assert guided.isfinite().all()
    assert torch.equal(draw_tiny(pipe, kind, PROMPT, guidance_scale=1.0), before)


def test_padding_has_no_residual_and_none_is_read(kind):
    pipe = shared_transformer(kind)
    text, eraser = encode_prompts(pipe, [PROMPT, LONGER]), gates_of(pipe)
    read = present(text)
    whole = eraser.residuals(text)
    for row in range(2):
        alone = eraser.residuals(text[row][read[row]])
        for site, residual in whole.items():
            torch.testing.assert_close(residual[row][read[row]], alone[site], rtol=1e-5, atol=1e-6)
            assert not residual[row][~read[row]].any()
    assert not eraser.openness(text)[:, ~read].any()


def test_training_pulls_the_projections_outputs_to_their_target(kind):
    """In float64, what a trained gate makes of the target is (1 + η) W n − η W t, as the objective weighs errors."""
    pipe = shared_transformer(kind)
    texts = encode_prompts(pipe, ["a tiger", "one tiger", "a cat", "one cat", "a house", "a big tree", ""]).double()
    base = BaseProjections.of(pipe.transformer, tokens=texts.shape[1], dtype=torch.float64)
    quick = TrainingConfig(
        gate=GateConfig(gate_rank=4, adapter_rank=4),
        stages=2,
        first_steps=300,
        later_steps=60,
        first_rate=3e-2,
        later_rate=1e-2,
        adversary_steps=5,
        copies=2,
        targets_per_step=2,
        anchors_per_step=4,
        anchor_weight=1.0,
    )
    target, surrogate = texts[:2], texts[2:4]  # as many tokens in both
    trained = train([ConceptTexts("tiger", target, surrogate, texts[4:6], 0)], base, texts[6], quick)
    eraser = Eraser([LoadedGates(("tiger",), base.names, trained.gates)])
    read = present(target)
    added, wrong, whole = eraser.residuals(target), 0.0, 0.0
    for site, matrix, weight in zip(base.names, base.matrices, base.weights.tolist(), strict=True):
        way = (1.3 * (surrogate - target) @ matrix.T)[read]
        wrong += weight * (way - added[site][read]).square().sum().item()
        whole += weight * way.square().sum().item()
    assert wrong < 0.25 * whole


def test_gates_of_another_network_or_width_are_refused(kind):
    pipe, other = shared_transformer(kind), shared_transformer("wan" if kind == "ltx" else "ltx")
    with pytest.raises(ValueError, match="another base model"):
        gates_of(other).attach(pipe)


def test_the_texts_mark_covers_the_networks_own_way_of_the_text(kind):
    pipe = tiny_transformer(kind)
    mark, whole = text_fingerprint(pipe), fingerprint(pipe)
    way = family_of(pipe).way(pipe.transformer)
    next(pipe.transformer.parameters()).data.add_(1e-2)
    assert fingerprint(pipe) != whole
    for parameter in way[0].parameters():
        parameter.data.add_(1e-2)
    assert text_fingerprint(pipe) != mark


@pytest.mark.parametrize("kind", ["pixart", "wan", "ltx", "hunyuan"])
def test_fused_projections_are_refused(kind):
    pipe = tiny_transformer(kind)
    eraser = gates_of(pipe)
    with eraser.attached(pipe), pytest.raises(RuntimeError, match="bypasses the attached gates"):
        pipe.transformer.fuse_qkv_projections()
    pipe.transformer.fuse_qkv_projections()
    with pytest.raises(ValueError, match="fused"):
        eraser.attach(pipe)


def test_fusing_what_reads_no_text_leaves_gates_at_work():
    """Diffusers fuses none of SANA's cross-attentions."""
    pipe = tiny_transformer("sana")
    pipe.transformer.fuse_qkv_projections()
    eraser = gates_of(pipe)
    expected = by_hand(pipe, "sana", eraser, PROMPT)
    with eraser.attached(pipe):
        drawn = draw_tiny(pipe, "sana", PROMPT, guidance_scale=1.0)
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["allegro", "latte"])
def test_where_diffusers_cannot_fuse_there_is_nothing_to_refuse(kind):
    assert not hasattr(shared_transformer(kind).transformer, "fuse_qkv_projections")


@pytest.mark.parametrize("kind", ["pixart", "wan"])
def test_prompts_of_other_lengths_in_one_batch_are_erased_as_alone(kind):
    """Guidance puts two texts of different lengths into one call, and the mask tells them apart."""
    pipe = shared_transformer(kind)
    eraser = gates_of(pipe)
    with eraser.attached(pipe):
        one, other = (draw_tiny(pipe, kind, prompt) for prompt in (PROMPT, LONGER))
        noise = [torch.Generator().manual_seed(0) for _ in range(2)]
        both = draw_tiny(pipe, kind, [PROMPT, LONGER], generator=noise)
    torch.testing.assert_close(both[:1], one, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1:], other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["pixart", "wan", "sana"])
def test_compiled_networks_copies_and_half_precision_erase_too(kind):
    pipe = tiny_transformer(kind)
    eraser = gates_of(pipe)
    with eraser.attached(pipe):
        expected = draw_tiny(pipe, kind, PROMPT)
        twin = copy.deepcopy(pipe.transformer)
    compiled = tiny_transformer(kind)
    compiled.transformer = torch.compile(compiled.transformer, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers' and dynamo's own
        with eraser.attached(compiled):
            torch.testing.assert_close(draw_tiny(compiled, kind, PROMPT), expected, rtol=1e-4, atol=1e-4)
    pipe.transformer = twin  # with its own erasing
    torch.testing.assert_close(draw_tiny(pipe, kind, PROMPT), expected, rtol=1e-5, atol=1e-5)
    half = tiny_transformer(kind).to(torch.bfloat16)
    before = draw_tiny(half, kind, PROMPT)
    with gates_of(half).attached(half):
        after = draw_tiny(half, kind, PROMPT)
    assert after.isfinite().all()
    assert not torch.allclose(before.float(), after.float(), rtol=1e-2)


@pytest.mark.parametrize("kind", ["pixart", "sana", "hunyuan"])
def test_a_saved_model_is_loaded_drawn_and_erased_by_the_library(kind, tmp_path):
    tiny_transformer(kind).save_pretrained(tmp_path / kind)
    pipe = load_pipeline(str(tmp_path / kind), device="cpu")
    size = DRAWING[kind]["height"]
    profile = Profile(name="tiny", steps=2, guidance_scale=3.0, height=size, width=size, batch=2)
    jobs = [PictureJob("0", PROMPT, 0), PictureJob("1", LONGER, 1)]
    before = [picture for _, picture in generate(pipe, jobs, profile)]
    assert [picture.size for picture in before] == [(size, size)] * 2
    with gates_of(pipe, scale=2.0).attached(pipe):
        after = [picture for _, picture in generate(pipe, jobs, profile)]
    assert all(a.tobytes() != b.tobytes() for a, b in zip(before, after, strict=True))
    assert [picture.tobytes() for _, picture in generate(pipe, jobs, profile)] == [b.tobytes() for b in before]


def test_two_networks_are_refused():
    pipe = tiny_transformer("wan")
    pipe.register_modules(transformer_2=copy.deepcopy(pipe.transformer))
    with pytest.raises(ValueError, match="two networks"):
        sites_of(pipe)

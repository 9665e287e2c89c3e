"""MACE: its closed forms against plain least squares, where its loss looks, and a training that goes on bit for bit."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from cpe import Erased
from cpe.methods.base import method_of
from cpe.methods.checkpoint import CheckpointError
from cpe.methods.lessons import Bench, Encoded, Lesson, Prompt
from cpe.methods.mace.closed import Factors, Fusion, context_tokens, fused, refinement
from cpe.methods.mace.config import MaceConfig
from cpe.methods.mace.method import adapters_of, scene_of, spans
from cpe.methods.mace.suppression import Watched
from cpe.methods.mace.training import curve_steps, time_weights
from cpe.models.sites import find_projections
from helpers.tiny import TEXT_WIDTH, tiny_pipeline, tiny_variant

TEMPLATES = ("a {} in a garden", "{} alone")


def prompts(*names):
    return tuple(Prompt(template.replace("{}", name), name) for name in names for template in TEMPLATES)


CAT = Lesson("cat", prompts("cat"), prompts("thing"), prompts("dog", "owl"), seed=0)
ROSE = Lesson("rose", prompts("rose"), prompts("thing"), prompts("dog", "owl"), seed=1)
LESSONS = [CAT, ROSE]
TEXTS = ["", *dict.fromkeys(text for lesson in LESSONS for text in lesson.texts)]
DOUBLE = {"dtype": torch.float64}
SHORT = MaceConfig(steps=4, pictures=2, sampling_steps=2, guidance_scale=1.0, learning_rate=0.05)


def encoded(width=8, tokens=9):
    table = torch.randn(len(TEXTS), tokens, width, generator=torch.Generator().manual_seed(0)).half()
    return Encoded({text: row for row, text in enumerate(TEXTS)}, table)


def span(prompt):
    return (2, 3) if prompt.name == "cat" and prompt.text.startswith("a") else (2, 2)


def rows_of(texts, given):
    return torch.cat(list(texts.of(prompt.text for prompt in given).double()))


def kept_parts(texts, weight):
    """Weight of a row, and rows: anchors from the end of their name on, each on its mean, and the empty prompt."""
    tails = [texts.of(p.text for p in prompts(name)).double()[:, 2:].flatten(0, 1) for name in ("dog", "owl")]
    return [(weight / len(rows), rows) for rows in (*tails, texts.empty.double())]


def least_squares(parts):
    """Returns the matrix that maps rows to their targets best, (weight of a row, rows, targets) each."""
    given = torch.cat([weight**0.5 * rows for weight, rows, _ in parts])
    wanted = torch.cat([weight**0.5 * targets for weight, _, targets in parts])
    return torch.linalg.lstsq(given, wanted).solution.T


def test_a_concepts_context_is_all_but_its_name_aligned_at_the_names_ends():
    texts = encoded()
    own, other = context_tokens(CAT, texts, span)
    cat, thing = texts.of(p.text for p in CAT.target).double(), texts.of(p.text for p in CAT.surrogate).double()
    assert torch.equal(own, torch.cat([cat[0, :2], cat[0, 4:], cat[1, :2], cat[1, 3:]]))
    assert torch.equal(other, torch.cat([thing[0, :2], thing[0, 3:8], thing[1, :2], thing[1, 3:]]))


def test_the_refinement_solves_its_own_least_squares():
    texts, config, eye = encoded(), MaceConfig(ridge=0.3, keep_weight=0.7), torch.eye(8, **DOUBLE)
    parts = [(0.3, eye, eye), *((weight, rows, rows) for weight, rows in kept_parts(texts, 0.7))]
    for lesson in LESSONS:
        own, other = context_tokens(lesson, texts, span)
        parts.append((1 / len(own), own, other))
    found = refinement(LESSONS, texts, span, config)
    assert (found - eye).norm() > 0.1
    torch.testing.assert_close(found, least_squares(parts))


def test_the_fusion_solves_its_own_least_squares():
    texts, config, eye = encoded(), MaceConfig(ridge=0.3, keep_weight=0.7), torch.eye(8, **DOUBLE)
    draw = lambda *shape: torch.randn(*shape, generator=generator, **DOUBLE)  # noqa: E731
    generator = torch.Generator().manual_seed(1)
    matrix, refine = draw(5, 8), eye + 0.3 * draw(8, 8)
    adapters = [{"one.to_k": Factors(draw(5, 1), draw(1, 8))} for _ in LESSONS]
    refined = matrix @ refine
    parts = [(0.3, eye, refined.T), *((weight, rows, rows @ matrix.T) for weight, rows in kept_parts(texts, 0.7))]
    for lesson, own in zip(LESSONS, adapters, strict=True):
        rows = rows_of(texts, lesson.target)
        parts.append((1 / len(rows), rows, rows @ (refined + own["one.to_k"].up @ own["one.to_k"].down).T))
    delta = fused(Fusion(LESSONS, texts, span, config), {"one.to_k": matrix}, refine, adapters)["one.to_k"]
    assert delta.norm() > 0.1
    torch.testing.assert_close(delta.double(), least_squares(parts) - matrix, rtol=1e-5, atol=1e-6)


def test_nothing_refined_and_nothing_learned_fuse_into_the_model_itself():
    texts, eye = encoded(), torch.eye(8, **DOUBLE)
    matrix = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    idle = [{"one.to_k": Factors(torch.zeros(5, 1), torch.ones(1, 8))}] * 2
    delta = fused(Fusion(LESSONS, texts, span, MaceConfig()), {"one.to_k": matrix}, eye, idle)["one.to_k"]
    assert delta.abs().max() < 1e-6


def test_adapters_learn_most_at_the_published_times():
    weights = time_weights(1000)
    assert weights.argmax() == 300
    assert weights[200:400].sum() > 0.85 * weights.sum()
    torch.testing.assert_close(time_weights(500), weights[::2])


def test_the_loss_is_the_attention_that_the_networks_own_probabilities_give():
    pipe = tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    watched, generator = Watched(pipe), torch.Generator().manual_seed(3)
    noisy, text = (torch.randn(*shape, generator=generator) for shape in ((1, 4, 8, 8), (1, 77, TEXT_WIDTH)))
    everything, nothing = torch.ones(77, dtype=torch.bool), torch.zeros(77, dtype=torch.bool)
    look = lambda tokens, weights: watched.attention_to(tokens, weights, noisy, torch.tensor([300]), text).item()  # noqa: E731
    keys = {path: 0 * weight for path, weight in watched.untouched.items()}  # all tokens alike, so each has 1/77
    places = dict.fromkeys(keys, 64) | {path: 16 for path in keys if _low(path)}
    attentions = [path for path in keys if path.endswith("to_k")]
    for tokens in (everything, nothing, torch.arange(77) < 5):
        share = tokens.sum().item() ** 0.5 / 77
        wanted = sum((8 * places[path]) ** 0.5 * share for path in attentions)  # of 8 heads
        assert look(tokens, keys) == pytest.approx(wanted, rel=1e-5, abs=1e-9)
    assert look(everything, watched.untouched) > look(torch.arange(77) < 5, watched.untouched) > 0
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


def _low(path):
    """Whether a layer of the tiny U-Net has 4 x 4 places, not 8 x 8."""
    return path.startswith(("down_blocks.1", "mid_block", "up_blocks.0"))


class Killed(Exception):  # noqa: N818
    pass


def trained(pipe, folder, *, killed_at=(), config=SHORT):
    """Trains, killed after some of its steps and started again."""
    method, texts, killed = method_of("mace"), encoded(TEXT_WIDTH, 77), list(killed_at)
    starts = []

    def begin(steps, done):
        starts.append(done)
        taken = [done]

        def step(said):
            taken[0] += 1
            if killed and taken[0] == killed[0]:
                killed.pop(0)
                raise Killed

        return step

    bench = Bench(folder, folder / "checkpoint", begin)
    while True:
        try:
            (piece,) = method.train(LESSONS, texts, pipe, config, bench)
        except Killed:
            continue
        return piece, starts


def test_a_training_that_is_killed_and_started_again_ends_in_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setattr("cpe.methods.mace.training.CHECKPOINT_EVERY", 2)
    pipe = tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    whole, starts = trained(pipe, tmp_path / "whole")
    assert starts == [0]
    resumed, starts = trained(pipe, tmp_path / "parts", killed_at=(1, 3, 7))
    assert starts == [0, 0, 2, 6]
    assert whole.metadata == resumed.metadata
    assert whole.notes == resumed.notes
    assert len(whole.notes["losses"]) == 2 * len(curve_steps(SHORT.steps))
    assert all(torch.equal(delta, resumed.tensors[name]) for name, delta in whole.tensors.items())
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    with pytest.raises(CheckpointError, match=r"config\.rank is 1 there, 2 here"):
        trained(pipe, tmp_path / "parts", config=SHORT.model_copy(update={"rank": 2}))


def test_a_concepts_name_and_the_ends_of_text_lose_attention_as_its_adapters_learn():
    pipe, texts = tiny_pipeline(), encoded(TEXT_WIDTH, 77)
    config = SHORT.model_copy(update={"steps": 40})
    scene = scene_of(CAT, spans(LESSONS, pipe), pipe, config)
    ids = pipe.tokenizer(CAT.target[0].text).input_ids
    suppressed = scene.suppressed[CAT.target[0].text]
    name = pipe.tokenizer("cat").input_ids[1:-1]
    assert suppressed[len(ids) - 1], "the end of text"
    assert [token for token, lost in zip(ids[:-1], suppressed, strict=False) if lost] == name
    adapters = adapters_of([scene], torch.eye(TEXT_WIDTH, **DOUBLE), texts, pipe, config)
    losses = []
    for adapters.step in [*range(40), *range(8)]:  # the first eight's pictures, times and noise once more
        losses.append(adapters.take_step(scene))
    assert all(after < 0.99 * before for before, after in zip(losses[:8], losses[40:], strict=True))


def test_it_trains_on_a_pipeline_and_is_loaded_by_its_file(tmp_path):
    method, pipe = method_of("mace"), tiny_pipeline()
    piece, _ = trained(pipe, tmp_path)
    assert sum(4 * delta.numel() for delta in piece.tensors.values()) == method.size(pipe, SHORT, 2)
    (curve,) = method.curves(SHORT.model_dump(), piece.notes["losses"])
    assert [len(stage) for stage in curve.stages] == [4, 4]
    save_file(dict(piece.tensors), tmp_path / method.file_name, dict(piece.metadata))
    erased = Erased.load(tmp_path / method.file_name)
    assert (erased.concepts, json.loads(piece.metadata["concepts"])) == (("cat", "rose"), ["cat", "rose"])
    before = {path: module.weight.detach().clone() for path, module in find_projections(pipe.unet).items()}
    with erased.attached(pipe):
        for path, module in find_projections(pipe.unet).items():
            assert not torch.equal(module.weight, before[path])
    assert all(torch.equal(module.weight, before[path]) for path, module in find_projections(pipe.unet).items())
    assert method.seconds(pipe, encoded(TEXT_WIDTH, 77).table.float(), SHORT, 2, tmp_path) > 0


def test_a_network_that_needs_more_than_a_text_is_refused():
    with pytest.raises(ValueError, match=r"needs more than a picture, a time and a text \(addition_embed_type\)"):
        Watched(tiny_variant("xl"))

"""ESD: against a plain implementation with two networks in float64, and everything that a training promises."""

import copy
import json
import math

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file

from cpe import Erased
from cpe.methods.base import method_of
from cpe.methods.checkpoint import CheckpointError
from cpe.methods.lessons import Encoded
from cpe.methods.tuning import training
from cpe.methods.tuning.draws import below, in_turn, source
from helpers.learning import LESSONS, KilledError, bench, encoded, same
from helpers.tiny import eraser_for, tiny_pipeline, tiny_variant

SMALL = {"steps": 2, "batch": 2, "sampling_steps": 3, "learning_rate": 1e-3}


def config_of(name="esd-x", **changes):
    return method_of(name).config("published", {**SMALL, **changes})


def trained(name, folder, pipe=None, **changes):
    (piece,) = method_of(name).train(
        LESSONS, encoded(), pipe or tiny_pipeline(), config_of(name, **changes), bench(folder)
    )
    return piece


def plain_way(network, scheduler_config, noise, text, empty, steps, sampling, guidance):
    """DDIM written out: from what the network predicts to the clean picture, and back to the next level."""
    alphas = torch.cumprod(
        1 - torch.linspace(scheduler_config.beta_start, scheduler_config.beta_end, 1000, dtype=torch.float32), 0
    ).double()
    times = [1 + (sampling - 1 - number) * (1000 // sampling) for number in range(sampling)]  # steps_offset 1
    latents = noise
    for number in range(steps):
        time = times[number]
        given, none = (network(latents, time, encoder_hidden_states=one).sample for one in (text, empty))
        predicted = none + guidance * (given - none)
        before = time - 1000 // sampling
        level, next_level = alphas[time], alphas[before] if before >= 0 else alphas[0]
        if scheduler_config.prediction_type == "v_prediction":
            clean = level.sqrt() * latents - (1 - level).sqrt() * predicted
            noise_there = level.sqrt() * predicted + (1 - level).sqrt() * latents
        else:
            clean, noise_there = (latents - (1 - level).sqrt() * predicted) / level.sqrt(), predicted
        latents = next_level.sqrt() * clean + (1 - next_level).sqrt() * noise_there
    return latents, times[steps]


def plain_training(pipe, texts, config, names):
    """Two whole networks, one picture at a time, Adam by hand."""
    teacher, student = pipe.unet, copy.deepcopy(pipe.unet)
    norms = ("norm", "norm1", "norm2", "norm3", "group_norm", "conv_norm_out")  # no projections, no convolutions
    weights = [value for name, value in student.named_parameters() if names(name) and name.split(".")[-2] not in norms]
    first, second = ([torch.zeros_like(value) for value in weights] for _ in range(2))
    empty, size = texts.empty[None].double(), pipe.unet.config.sample_size
    for step in range(config.steps):
        losses = []
        for number in (2 * step, 2 * step + 1):
            lesson = LESSONS[in_turn([11, 22], 2, number)]
            own = source(lesson.seed, number)
            text = texts.of([lesson.target[below(2, own)].text]).double()
            walk = below(config.sampling_steps, own)
            noise = torch.randn(4, size, size, generator=own).double()[None]
            with torch.no_grad():
                latents, time = plain_way(
                    teacher,
                    pipe.scheduler.config,
                    noise,
                    text,
                    empty,
                    walk,
                    config.sampling_steps,
                    config.guidance_scale,
                )
                given, none = (teacher(latents, time, encoder_hidden_states=one).sample for one in (text, empty))
                wanted = none - config.strength * (given - none)
            losses.append((student(latents, time, encoder_hidden_states=text).sample - wanted).square().mean())
        gradients = torch.autograd.grad(sum(losses) / 2, weights, allow_unused=True)
        with torch.no_grad():
            for value, gradient, mean, square in zip(weights, gradients, first, second, strict=True):
                gradient = torch.zeros_like(value) if gradient is None else gradient
                mean.mul_(0.9).add_(0.1 * gradient)
                square.mul_(0.999).add_(0.001 * gradient**2)
                unbiased = square / (1 - 0.999 ** (step + 1))
                value.sub_(config.learning_rate / (1 - 0.9 ** (step + 1)) * mean / (unbiased.sqrt() + 1e-8))
    before = dict(teacher.named_parameters())
    return {name: (value - before[name]).detach() for name, value in student.named_parameters()}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["esd-x", "esd-u"])
def test_the_training_is_that_of_a_plain_implementation(name, prediction, tmp_path):
    pipe = tiny_pipeline()
    pipe.unet.double()
    pipe.scheduler = DDIMScheduler(steps_offset=1, clip_sample=False, prediction_type=prediction)
    config, crossing = config_of(name, strength=0.7), name == "esd-x"
    piece = trained(name, tmp_path, pipe, strength=0.7)
    expected = plain_training(pipe, encoded(), config, lambda path: ("attn2" in path) == crossing)
    layers = {name.removeprefix("delta."): value for name, value in piece.tensors.items()}
    for path, delta in layers.items():
        full = path if path.endswith(".bias") else f"{path}.weight"
        assert delta.abs().max() > 0, path
        assert (delta.double() - expected[full]).abs().max() < 0.02 * 1e-3, path  # of a step of Adam
    of_kind = {path for path in layers if ("attn2" in path) == crossing}
    assert of_kind == set(layers)


def test_esd_x_trains_whole_cross_attentions_and_esd_u_all_other_layers_with_their_biases():
    pipe = tiny_pipeline()
    crossing, rest = (set(method_of(name).paths(pipe)) for name in ("esd-x", "esd-u"))
    assert {path.partition("attn2.")[2] for path in crossing} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert not crossing & rest
    assert {"conv_in", "conv_out", "time_embedding.linear_1"} <= rest
    assert any("attn1.to_q" in path for path in rest)
    for name, paths in (("esd-x", crossing), ("esd-u", rest)):
        own = [value for path in paths for value in pipe.unet.get_submodule(path).parameters()]
        assert method_of(name).size(pipe, config_of(name), 5) == 4 * sum(value.numel() for value in own)


@pytest.mark.parametrize("name", ["esd-x", "esd-u"])
def test_the_base_model_stays_what_it_was_and_a_loaded_training_comes_off_bit_for_bit(name, tmp_path):
    pipe = tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    wanting = [value.requires_grad for value in pipe.unet.parameters()]
    piece = trained(name, tmp_path, pipe)
    assert same(pipe.unet.state_dict(), before)
    assert [value.requires_grad for value in pipe.unet.parameters()] == wanting
    assert all(value.grad is None for value in pipe.unet.parameters())
    save_file(dict(piece.tensors), tmp_path / "layers.safetensors", dict(piece.metadata))
    erased = Erased.load(tmp_path / "layers.safetensors")
    assert erased.concepts == ("cat", "car")
    with erased.attached(pipe):
        changed = {key for key, value in pipe.unet.state_dict().items() if not torch.equal(value, before[key])}
        assert any(key.endswith(".bias") for key in changed)
        assert all(("attn2" in key) == (name == "esd-x") for key in changed)
    assert same(pipe.unet.state_dict(), before)


def test_killed_anywhere_and_started_again_it_ends_in_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    method, config = method_of("esd-x"), config_of(steps=7, batch=2, guidance_scale=1.0)
    pipe, texts = tiny_pipeline(), encoded()
    whole = method.train(LESSONS, texts, pipe, config, bench(tmp_path / "whole"))
    told: list = []
    for stop in (1, 3, 2):
        with pytest.raises(KilledError):
            method.train(LESSONS, texts, pipe, config, bench(tmp_path / "cut", stop, told))
    again = method.train(LESSONS, texts, pipe, config, bench(tmp_path / "cut", told=told))
    assert same(dict(whole[0].tensors), dict(again[0].tensors))
    assert whole[0].notes == again[0].notes
    assert [entry for entry in told if isinstance(entry, tuple)] == [(7, 0), (7, 0), (7, 2), (7, 4)]


def test_a_checkpoint_of_another_training_is_refused_by_name(tmp_path):
    trained("esd-x", tmp_path, steps=1, sampling_steps=1)
    with pytest.raises(CheckpointError, match=r"config\.strength is 1\.0 there, 0\.5 here"):
        trained("esd-x", tmp_path, steps=1, sampling_steps=1, strength=0.5)
    with pytest.raises(CheckpointError, match=r"base model is"):
        trained("esd-x", tmp_path, tiny_pipeline(seed=3), steps=1, sampling_steps=1)
    with pytest.raises(CheckpointError, match=r"method is 'esd-x 1' there, 'esd-u 1' here"):
        trained("esd-u", tmp_path, steps=1, sampling_steps=1)


def test_it_takes_a_list_s_concepts_in_turn_and_more_of_them_take_more_steps():
    assert config_of(steps=5, batch=10).steps_in_all(1) == 5
    assert config_of(steps=5, batch=10).steps_in_all(10) == 5
    assert config_of(steps=5, batch=10).steps_in_all(11) == 10
    assert config_of(steps=5, batch=1).steps_in_all(3) == 15
    turns = [in_turn([1, 2], 4, number) for number in range(400)]
    passes = [tuple(turns[at : at + 4]) for at in range(0, 400, 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in passes)
    assert len(set(passes)) > 12, "each pass has an order of its own"


def test_a_longer_training_comes_nearer_to_its_goal(tmp_path):
    piece = trained("esd-x", tmp_path, steps=24, learning_rate=5e-3, guidance_scale=1.0, sampling_steps=1)
    losses = [point["loss"] for point in piece.notes["losses"]]
    assert len(losses) == 24
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    (curve,) = method_of("esd-x").curves({}, piece.notes["losses"])
    assert curve.stages[0][-1] == (23, losses[-1])


def test_networks_that_need_more_than_a_text_are_refused_and_so_are_erased_ones(tmp_path):
    with pytest.raises(ValueError, match="has conditions besides its text"):
        trained("esd-x", tmp_path, tiny_variant("xl"))
    pipe = tiny_pipeline()
    with eraser_for(pipe).attached(pipe), pytest.raises(RuntimeError, match="another eraser is attached"):
        trained("esd-x", tmp_path, pipe)


def test_it_says_what_it_takes():
    texts, pipe = encoded(), tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    short, long = (
        method_of("esd-x").seconds(pipe, texts.table, config_of(steps=steps), 2, None) for steps in (10, 1000)
    )
    assert 0 < short < long < math.inf
    assert same(pipe.unet.state_dict(), before)


def test_the_file_names_method_and_concepts(tmp_path):
    piece = trained("esd-u", tmp_path)
    assert dict(piece.metadata) == {"method": "esd-u", "concepts": json.dumps(["cat", "car"])}
    assert all(value.dtype == torch.float32 for value in piece.tensors.values())
    assert isinstance(encoded(), Encoded)

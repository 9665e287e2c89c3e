"""Concept Ablation: pictures as the pipeline draws them, and the gradient of a plain implementation in float64."""

import copy
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

from cpe import Erased
from cpe.methods.ablation.drawn import anchor_texts, surrogate_texts
from cpe.methods.base import method_of
from cpe.methods.lessons import Lesson
from cpe.methods.tuning import training
from cpe.methods.tuning.draws import below, source
from cpe.models.sites import find_projections
from helpers.learning import LESSONS, KilledError, bench, encoded, prompts, same
from helpers.tiny import tiny_pipeline

METHOD = method_of("concept-ablation")
SMALL = {"steps": 2, "batch": 4, "sampling_steps": 2, "learning_rate": 1e-3, "pictures": 3, "drawn_at_once": 2}
HELD = {"anchors": 0.5, "anchor_pictures": 3}


def config_of(**changes):
    return METHOD.config("published", {**SMALL, "guidance_scale": 3.0, **changes})


def test_the_gradient_is_that_of_two_whole_networks_on_pictures_of_the_pipeline():
    pipe, texts = tiny_pipeline(), encoded(77)
    pipe.unet.double(), pipe.text_encoder.double()  # the pipeline goes by its text encoder
    config = config_of(**HELD, noisiest=0.5)
    learning = METHOD.training(LESSONS, texts, pipe, config)
    goal = learning.goal
    assert goal.drawn_texts[:4] == ["a thing", "a thing", "a drawing of a thing", "a drawing of a thing"]
    while learning.taken < goal.preparations:
        assert learning.advance() == "pictures"
    pictures = torch.cat(learning.drawn)
    noise = torch.stack([torch.randn(4, 8, 8, generator=source(11, 22, "drawn", n)) for n in range(len(pictures))])
    by_pipe = pipe(
        prompt_embeds=texts.of(goal.drawn_texts),
        negative_prompt_embeds=texts.empty.expand(len(pictures), -1, -1),
        latents=noise.double(),
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="latent",
    ).images
    assert torch.allclose(pictures, by_pipe, atol=1e-5)

    loss = goal.loss(1, learning.drawn)
    found = torch.autograd.grad(loss, list(learning.student.learning.values()))
    teacher, student = pipe.unet, copy.deepcopy(pipe.unet)
    levels = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    losses, anchors = [], 0
    for number in range(4, 8):
        own = source(11, 22, number)
        chosen = goal.chosen(number, own)
        if chosen.asked == chosen.wanted:
            anchors += 1
            assert goal.drawn_texts[chosen.picture] == chosen.asked
        else:
            assert chosen.wanted == chosen.asked.replace("cat", "thing").replace("car", "thing")
            assert goal.drawn_texts[chosen.picture] == chosen.wanted
        noisiest = torch.rand((), generator=own) < 0.5
        time = 900 + below(100, own) if noisiest else below(1000, own)
        noise = torch.randn(4, 8, 8, generator=own).double()[None]
        level = levels[time]
        latents = level.sqrt() * pictures[chosen.picture][None] + (1 - level).sqrt() * noise
        asked, wanted = (texts.of([text]).double() for text in (chosen.asked, chosen.wanted))
        with torch.no_grad():
            expected = teacher(latents, time, encoder_hidden_states=wanted).sample
        losses.append((student(latents, time, encoder_hidden_states=asked).sample - expected).square().mean())
    assert anchors == 2
    plain = sum(losses) / 4
    assert torch.allclose(loss, plain, rtol=1e-6)
    weights = dict(student.named_parameters())
    gradients = torch.autograd.grad(plain, [weights[name] for name in learning.student.learning])
    for name, one, other in zip(learning.student.learning, found, gradients, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm(), name


def test_keys_and_values_alone_are_trained_and_come_off_bit_for_bit(tmp_path):
    pipe = tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    (piece,) = METHOD.train(LESSONS, encoded(), pipe, config_of(**HELD), bench(tmp_path))
    assert same(pipe.unet.state_dict(), before)
    sites = find_projections(pipe.unet)
    assert {name.removeprefix("delta.") for name in piece.tensors} == set(sites)
    assert METHOD.size(pipe, config_of(), 2) == 4 * sum(value.numel() for value in piece.tensors.values())
    save_file(dict(piece.tensors), tmp_path / "layers.safetensors", dict(piece.metadata))
    erased = Erased.load(tmp_path / "layers.safetensors")
    with erased.attached(pipe):
        changed = {key for key, value in pipe.unet.state_dict().items() if not torch.equal(value, before[key])}
        assert changed == {f"{site}.weight" for site in sites}
    assert same(pipe.unet.state_dict(), before)


@pytest.mark.parametrize("every", [1, 2])
def test_killed_anywhere_also_while_it_draws_it_ends_in_the_same_weights(every, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", every)
    pipe, texts, config = tiny_pipeline(), encoded(), config_of(**HELD, steps=4, sampling_steps=1)
    whole = METHOD.train(LESSONS, texts, pipe, config, bench(tmp_path / "whole"))
    told: list = []
    for stop in (2, 3, 2):  # drawing takes 4
        with pytest.raises(KilledError):
            METHOD.train(LESSONS, texts, pipe, config, bench(tmp_path / "cut", stop, told))
    again = METHOD.train(LESSONS, texts, pipe, config, bench(tmp_path / "cut", told=told))
    assert same(dict(whole[0].tensors), dict(again[0].tensors))
    assert whole[0].notes == again[0].notes
    begun = [entry for entry in told if isinstance(entry, tuple)]
    assert begun == [(8, 0), (8, 2), (8, 5 if every == 1 else 4), (8, 7 if every == 1 else 6)]
    assert told[1:3] == ["pictures", "pictures"]
    assert told[-1] == "training"


def test_shares_of_anchors_are_exact_and_concepts_come_in_turn():
    learning = METHOD.training(LESSONS, encoded(), tiny_pipeline(), config_of(anchors=0.25, anchor_pictures=6))
    chosen = [learning.goal.chosen(number, source(number)) for number in range(400)]
    held = [one for one in chosen if one.asked == one.wanted]
    assert len(held) == 100
    erased = Counter(one.asked.rpartition(" ")[2] for one in chosen if one.asked != one.wanted)
    assert erased == {"cat": 150, "car": 150}
    counts = Counter(one.asked for one in held)
    assert len(counts) == 6
    assert max(counts.values()) - min(counts.values()) <= 1


def test_what_is_drawn_beforehand():
    other = Lesson("bus", prompts("bus"), prompts("tool"), (), seed=3)
    assert Counter(surrogate_texts([*LESSONS, other], 5)) == {
        text.format(name): 3 for name in ("thing", "tool") for text in ("a {}", "a drawing of a {}")
    }
    assert len(surrogate_texts(LESSONS, 1)) == 2, "every prompt has one"
    every = {prompt.text for lesson in LESSONS for prompt in lesson.anchors}
    assert set(anchor_texts(LESSONS, len(every))) == every
    assert Counter(anchor_texts(LESSONS, 2 * len(every))) == dict.fromkeys(every, 2)


def test_anchors_are_asked_for_only_where_there_are_some():
    bare = [Lesson(lesson.concept, lesson.target, lesson.surrogate, (), lesson.seed) for lesson in LESSONS]
    with pytest.raises(ValueError, match=r"a share of 0\.5 of the pictures is to hold anchors, and there are none"):
        METHOD.training(bare, encoded(), tiny_pipeline(), config_of(**HELD))
    METHOD.training(bare, encoded(), tiny_pipeline(), config_of())


def test_a_longer_training_comes_nearer_to_its_goal_and_says_what_it_takes(tmp_path):
    pipe, texts = tiny_pipeline(), encoded()
    config = config_of(steps=24, learning_rate=1e-2, gradient_clip=None, sampling_steps=1)
    (piece,) = METHOD.train(LESSONS, texts, pipe, config, bench(tmp_path))
    losses = [point["loss"] for point in piece.notes["losses"]]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    short, long = (METHOD.seconds(pipe, texts.table, config_of(pictures=count), 2, None) for count in (2, 10_000))
    assert 0 < short < long

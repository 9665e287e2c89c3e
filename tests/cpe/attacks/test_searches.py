"""Attacks that learn their texts: what they give, that gradients are right, and that nothing is left behind."""

import pytest
import torch

from cpe.attacks.base import Aim, Search, Victim
from cpe.attacks.learned.slots import FILLER, Slots
from cpe.attacks.table import ATTACKS, attack_of
from cpe.embedded.observers import EmbeddedClassifier
from cpe.models.loading import load_pipeline
from cpe.models.sites import find_projections
from cpe.models.text import encode_prompts
from helpers.tiny import eraser_for

SEARCHES = [name for name in ATTACKS if isinstance(attack_of(name), Search)]
WORDED = ["ring-a-bell-hard", "mma-text", "p4d", "unlearn-diff"]  # whose texts are prompts; test_discrete.py
WHITE_BOX = [name for name in SEARCHES if attack_of(name).access == "white box" and name not in WORDED]


class Nothing:
    """What erases nothing."""

    def attached(self, pipe):
        from contextlib import nullcontext

        return nullcontext()


@pytest.fixture(scope="module")
def pipe():
    torch.set_num_threads(1)
    return load_pipeline("embedded", device="cpu")


def drawn(pipe, text, seeds=(100, 101, 102)):
    pictures = pipe(
        prompt_embeds=text[None].expand(len(seeds), -1, -1),
        num_inference_steps=20,
        guidance_scale=1.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images
    return list(EmbeddedClassifier().look(pictures, [""] * len(seeds))["noun"])


def test_a_prompt_with_its_own_tokens_put_back_is_the_prompt(pipe):
    slots = Slots(pipe, 1, before="a picture of a")
    own = slots.table[pipe.tokenizer(FILLER, add_special_tokens=False).input_ids]
    torch.testing.assert_close(slots.texts(own)[0], encode_prompts(pipe, [slots.prompt])[0], rtol=0, atol=0)
    tiger = slots.table[pipe.tokenizer("tiger", add_special_tokens=False).input_ids]
    torch.testing.assert_close(slots.texts(tiger)[0], encode_prompts(pipe, ["a picture of a tiger"])[0], rtol=0, atol=0)
    assert not pipe.text_encoder.get_input_embeddings()._forward_hooks, "the hook is off again"


def test_too_many_free_tokens_are_refused(pipe):
    with pytest.raises(ValueError, match="leaves no room for 80 free tokens; ask for fewer"):
        Slots(pipe, 80)


def test_random_tokens_never_hold_the_name(pipe, monkeypatch):
    slots = Slots(pipe, 1)
    name = pipe.tokenizer("tiger", add_special_tokens=False).input_ids[0]
    drawn = iter([name, *pipe.tokenizer.all_special_ids, 1000])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(next(drawn)))
    assert torch.equal(slots.random_tokens(torch.Generator(), "tiger")[0], slots.table[1000])


@pytest.mark.parametrize("name", WHITE_BOX)
def test_a_white_box_search_finds_what_the_untouched_model_draws_as_the_concept(pipe, name):
    """Its power: against a model that nothing erased, a short search succeeds."""
    found = attack_of(name).search(Victim(pipe, Nothing()), Aim("airplane", 7, 40))
    assert found.text.shape == (77, 96)
    assert len(found.losses) == 40
    assert drawn(pipe, found.text) == ["airplane"] * 3
    if name == "inversion":  # the two others' first step is enough against a model that nothing erased
        unlearned = attack_of(name).search(Victim(pipe, Nothing()), Aim("airplane", 7, 1))
        assert "airplane" not in drawn(pipe, unlearned.text), "the start alone does not bring it"
    if name == "free-prompt":  # whose goals are the untouched model's own answers
        assert max(found.losses[-5:]) < found.losses[0] / 10


def test_half_precision_learns_finite_tokens():
    """Adam in half precision would divide by a square that is rounded to nothing."""
    torch.set_num_threads(1)
    half = load_pipeline("embedded", device="cpu").to(torch.bfloat16)
    found = attack_of("inversion").search(Victim(half, Nothing()), Aim("tiger", 7, 2))
    assert found.text.isfinite().all()
    assert all(loss > 0 for loss in found.losses)
    assert found.text.dtype == torch.float32


def test_what_is_no_finite_number_stops_a_search_in_one_sentence(pipe, monkeypatch):
    monkeypatch.setattr("cpe.attacks.learned.learning.loss_of", lambda *_: torch.tensor(torch.nan))
    with pytest.raises(RuntimeError, match="met what is no finite number at step 0"):
        attack_of("inversion").search(Victim(pipe, Nothing()), Aim("tiger", 7, 1))


def test_a_search_of_more_steps_than_are_in_memory_together_goes_through_each_once(pipe, monkeypatch):
    monkeypatch.setattr("cpe.attacks.learned.learning.STEPS_AT_ONCE", 2)
    found = attack_of("free-prompt").search(Victim(pipe, eraser_for(pipe)), Aim("rose", 3, 5))
    assert len(set(found.losses)) == len(found.losses) == 5


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_comes_to_the_same_text_again_and_leaves_the_model_alone(pipe, name):
    weights = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    eraser = eraser_for(pipe)
    one, two = (attack_of(name).search(Victim(pipe, eraser), Aim("rose", 3, 2)) for _ in range(2))
    assert torch.equal(one.text, two.text)
    assert one.losses == two.losses
    assert all(torch.equal(value, weights[key]) for key, value in pipe.unet.state_dict().items())
    assert all(parameter.requires_grad for parameter in pipe.unet.parameters()), "as they were"
    other = attack_of(name).search(Victim(pipe, eraser), Aim("rose", 4, 2, start=1))
    assert not torch.equal(one.text, other.text)


def test_gradients_reach_a_text_through_attached_gates_as_finite_differences_say(pipe):
    eraser = eraser_for(pipe)
    text = encode_prompts(pipe, ["a picture of a rose"]).double()
    direction = torch.randn(text.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def value(at):
        return sum(residual.square().sum() for residual in eraser.residuals(at).values())

    asked = text.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(asked), asked)
    step = 1e-5
    with torch.no_grad():
        numeric = (value(text + step * direction) - value(text - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-5, atol=1e-8)
    assert not next(iter(eraser.residuals(text).values())).requires_grad


def test_an_attached_projection_hands_gradients_to_one_text_and_none_to_the_next(pipe):
    """A learned text gets residuals of its own graph, never those kept from drawing; nor the other way round."""
    eraser = eraser_for(pipe)
    text = encode_prompts(pipe, ["a picture of a rose"])
    with eraser.attached(pipe):
        site = next(iter(find_projections(pipe.unet).values()))
        with torch.no_grad():
            kept = site(text)
        learned = text.clone().requires_grad_()
        (first,) = torch.autograd.grad(site(learned).square().sum(), learned)
        again = text.clone().requires_grad_()
        (second,) = torch.autograd.grad(site(again).square().sum(), again)
        plain = text.clone().requires_grad_()
        path = next(iter(find_projections(pipe.unet)))
        whole = torch.nn.functional.linear(plain, site.weight) + eraser.residuals(plain)[path]
        (wanted,) = torch.autograd.grad(whole.square().sum(), plain)
        with torch.no_grad():
            after = site(text)
    torch.testing.assert_close(first, wanted)
    torch.testing.assert_close(second, wanted)
    assert torch.equal(kept, after)
    assert not after.requires_grad


def test_a_model_with_two_text_encoders_is_refused_in_one_sentence(pipe):
    class Two:
        unet, text_encoder_2 = pipe.unet, pipe.text_encoder

    with pytest.raises(ValueError, match="with one text encoder and a U-Net, got Two; leave them out"):
        Slots(Two(), 1)

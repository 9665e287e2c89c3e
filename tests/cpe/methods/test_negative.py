"""The negative prompt alone: what it draws is what a person gets who writes it by hand."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from cpe import Erased, detach
from cpe.methods.base import method_of
from cpe.methods.erased import METHOD_KEY
from cpe.methods.lessons import Bench, Encoded, Lesson, Prompt
from cpe.methods.negative.eraser import NegativeNames
from cpe.methods.weights import EditError
from helpers.tiny import TEXT_WIDTH, draw_variant, eraser_for, tiny_pipeline, tiny_variant

WORDS = "tiger, big cat, rose"
BY_HAND = {"negative_prompt": WORDS, "guidance_scale": 2.0}


def lesson(name, *aliases):
    return Lesson(name, tuple(Prompt(f"a {word}", word) for word in (name, *aliases)), (), (), 0)


LESSONS = [lesson("tiger", "big cat"), lesson("rose")]


def trained(folder, pipe, lessons=LESSONS):
    method = method_of("negative-prompt")
    bench = Bench(folder / "cache", folder / "checkpoint")
    texts = Encoded({"": 0}, torch.zeros(1, 77, TEXT_WIDTH))
    (piece,) = method.train(lessons, texts, pipe, method.config("published"), bench)
    save_file(dict(piece.tensors), folder / method.file_name, dict(piece.metadata))
    return folder / method.file_name


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture
def erased(tmp_path, pipe):
    return Erased.load(trained(tmp_path, pipe))


def test_where_a_pipeline_draws_without_guidance_pictures_are_those_of_the_words_by_hand(pipe, erased):
    by_hand = draw_variant(pipe, **BY_HAND)
    untouched = draw_variant(pipe, guidance_scale=1.0)
    assert not torch.equal(by_hand, untouched)
    with erased.attached(pipe):
        assert torch.equal(draw_variant(pipe, guidance_scale=1.0), by_hand)
    assert torch.equal(draw_variant(pipe, guidance_scale=1.0), untouched)
    assert erased.concepts == ("tiger", "rose")


@pytest.mark.parametrize(
    ("own", "joined"),
    [(None, WORDS), ("", WORDS), ("blurry", f"{WORDS}, blurry"), (["", "blurry"], [WORDS, f"{WORDS}, blurry"])],
)
def test_where_it_guides_its_own_scale_holds_and_its_own_negative_prompt_stays(pipe, erased, own, joined):
    prompt = ["a tiger", "a dog"] if isinstance(own, list) else "a tiger"
    by_hand = draw_variant(pipe, prompt, negative_prompt=joined)
    assert not torch.equal(by_hand, draw_variant(pipe, prompt, negative_prompt=own))
    with erased.attached(pipe):
        assert torch.equal(draw_variant(pipe, prompt, negative_prompt=own), by_hand)


def test_the_erased_names_as_prompt_leave_the_other_prompts_of_their_batch_erased(pipe, erased):
    """A batch without guidance that begins with the words looks like one with guidance."""
    prompts = [WORDS, "a tiger"]
    by_hand = draw_variant(pipe, prompts, negative_prompt=[WORDS] * 2, guidance_scale=2.0)
    with erased.attached(pipe):
        draw_variant(pipe, guidance_scale=5.0)
        assert torch.equal(draw_variant(pipe, prompts, guidance_scale=1.0), by_hand)


def test_a_learned_text_is_guided_away_as_a_prompt_is(pipe, erased):
    text, _ = pipe.encode_prompt(["a tiger", "a dog"], "cpu", 1, False)
    by_hand = draw_variant(pipe, ["a tiger", "a dog"], negative_prompt=[WORDS] * 2)
    with erased.attached(pipe):
        assert torch.equal(draw_variant(pipe, None, prompt_embeds=text), by_hand)
        assert torch.equal(pipe.encode_prompt(["a tiger", "a dog"], "cpu", 1, False)[0], text)


def test_a_controlnets_pipeline_is_guided_away_by_its_own_scale(tmp_path):
    pipe = tiny_variant("controlnet")
    by_hand = draw_variant(pipe, kind="controlnet", negative_prompt=WORDS)
    with Erased.load(trained(tmp_path, pipe)).attached(pipe):
        assert torch.equal(draw_variant(pipe, kind="controlnet"), by_hand)
        assert draw_variant(pipe, kind="controlnet", guidance_scale=1.0).isfinite().all(), "residuals go twice too"


@pytest.mark.parametrize("kind", ["image", "inpainting"])
def test_pipelines_of_the_same_parts_are_guided_away_too(tmp_path, kind):
    pipe = tiny_variant(kind)
    erased = Erased.load(trained(tmp_path, pipe))
    by_hand = draw_variant(pipe, kind=kind, **BY_HAND)
    with erased.attached(pipe):
        torch.testing.assert_close(draw_variant(pipe, kind=kind, guidance_scale=1.0), by_hand)
    detach(pipe)
    with erased.attached(pipe.unet):  # the network by itself
        torch.testing.assert_close(draw_variant(pipe, kind=kind, guidance_scale=1.0), by_hand)


def test_conditions_besides_the_text_need_a_pipeline_that_guides(tmp_path):
    pipe = tiny_variant("xl")
    erased = Erased.load(trained(tmp_path, pipe))
    by_hand = draw_variant(pipe, kind="xl", negative_prompt=WORDS)
    with erased.attached(pipe):
        assert torch.equal(draw_variant(pipe, kind="xl"), by_hand)
        with pytest.raises(RuntimeError, match="ask for a guidance_scale above 1"):
            draw_variant(pipe, kind="xl", guidance_scale=1.0)


def test_gradients_pass_a_guided_network_and_a_copy_of_it_is_guided_by_itself(pipe, erased):
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([9, 700])
    text = torch.randn(2, 77, TEXT_WIDTH, generator=torch.Generator().manual_seed(2)).requires_grad_()
    away, towards = (
        pipe.unet(x, t, encoder_hidden_states=part).sample for part in (erased.text.expand(2, -1, -1), text)
    )
    wanted = away + 2 * (towards - away)
    (slope,) = torch.autograd.grad(wanted.square().sum(), text)
    with erased.attached(pipe):
        said = pipe.unet(x, t, encoder_hidden_states=text).sample
        (found,) = torch.autograd.grad(said.square().sum(), text)
        other = copy.deepcopy(pipe.unet)
    torch.testing.assert_close(said, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other(x, t, encoder_hidden_states=text, return_dict=False)[0], said)
    detach(other)
    own, as_it_was = (network(x, t, encoder_hidden_states=text).sample for network in (other, pipe.unet))
    assert torch.equal(own, as_it_was)


def test_what_would_draw_the_erased_is_refused(pipe, erased):
    with erased.attached(pipe):
        for refused in (erased, eraser_for(pipe)):
            with pytest.raises(RuntimeError, match="attached"):
                refused.attach(pipe)
        with pytest.raises(ValueError, match="give words as negative_prompt"):
            draw_variant(pipe, negative_prompt_embeds=torch.zeros(1, 77, TEXT_WIDTH))
        with pytest.raises(RuntimeError, match="would draw what was erased"):
            copy.deepcopy(pipe.unet.down_blocks).state_dict()
        pipe.unet = tiny_pipeline(1).unet
        with pytest.raises(RuntimeError, match="is another one than the negative prompt was attached to"):
            draw_variant(pipe)
        detach(pipe)
        draw_variant(pipe)
    with pytest.raises(ValueError, match=f"is 7 wide, the pipeline's text {TEXT_WIDTH}"):
        NegativeNames(["cat"], "cat", torch.zeros(77, 7), 2.0).attach(pipe)


def test_more_names_than_the_text_encoder_reads_are_refused(tmp_path, pipe):
    with pytest.raises(ValueError, match="of which the text encoder reads 77: what stands behind would not be erased"):
        trained(tmp_path, pipe, [lesson(f"person {number}") for number in range(40)])


def test_files_that_cannot_be_used_say_why(tmp_path):
    file, good = tmp_path / "negative.safetensors", {"words": "cat", "guidance_scale": "2.0"}
    told = {METHOD_KEY: "negative-prompt", "concepts": json.dumps(["cat"])}
    for tensors, metadata, words in (
        ({"negative_prompt": torch.zeros(2, 3)}, good | {"words": ""}, "is damaged"),
        ({"other": torch.zeros(2, 3)}, good, "is damaged"),
        ({"negative_prompt": torch.zeros(2, 3)}, good | {"guidance_scale": "1"}, "must be above 1, got '1'"),
        ({"negative_prompt": torch.zeros(2, 3)}, good | {"guidance_scale": "much"}, "must be above 1, got 'much'"),
    ):
        save_file(tensors, file, told | metadata)
        with pytest.raises(EditError, match=words):
            Erased.load(file)


def test_it_says_how_it_draws():
    method = method_of("negative-prompt")
    config = method.config("published", {"guidance_scale": 3.0})
    assert [method.drawn_at(config, scale) for scale in (0.0, 1.0, 1.5, 7.5)] == [3.0, 3.0, 1.5, 7.5]
    assert method_of("cpe").drawn_at(None, 1.0) == 1.0
    pipe = tiny_pipeline()
    assert method.size(pipe, config, 9) == 4 * 77 * TEXT_WIDTH
    assert method.seconds(pipe, None, config, 2, None) > 0

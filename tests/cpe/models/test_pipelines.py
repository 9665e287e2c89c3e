"""Every pipeline, option and companion tool gives what adding the residuals by plain hooks gives, every step anew."""

from functools import partial

import diffusers
import pytest
import torch
from torch import nn

from cpe.models.sites import find_projections
from helpers.tiny import by_reference, draw_variant, eraser_for, tiny_variant

KINDS = ("text", "image", "inpainting", "controlnet", "xl")
SCHEDULERS = (
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "LCMScheduler",
)
PAIR = ["a tiger", "a rose"]


@pytest.fixture(scope="module", params=KINDS)
def any_pipe(request):
    return request.param, tiny_variant(request.param)


@pytest.fixture
def pipe():
    return tiny_variant("text")


def assert_erases(pipe, **options):
    """Attached equals the reference and differs from the untouched picture, which detaching gives back."""
    eraser = eraser_for(pipe, count=3)
    plain, expected = draw_variant(pipe, **options), by_reference(pipe, eraser, **options)
    with eraser.attached(pipe):
        torch.testing.assert_close(draw_variant(pipe, **options), expected)
    assert (expected - plain).abs().max() > 0.05, "the gates must change the picture"
    assert torch.equal(draw_variant(pipe, **options), plain)


def test_every_pipeline_erases_like_the_reference(any_pipe):
    kind, pipe = any_pipe
    assert_erases(pipe, kind=kind)


@pytest.mark.filterwarnings("ignore:You have passed . text prompts:FutureWarning")  # diffusers, on its own doing
@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 1.0},
        {"negative_prompt": "blurry"},
        {"num_images_per_prompt": 3},
        {"prompt": PAIR},
        {"prompt": PAIR, "negative_prompt": ["blurry", "dark"], "num_images_per_prompt": 2},
        {"prompt": PAIR, "guidance_scale": 1.0, "num_images_per_prompt": 2},
    ],
    ids=str,
)
def test_every_way_to_prompt_erases_like_the_reference(any_pipe, options):
    kind, pipe = any_pipe
    many = isinstance(options.get("prompt"), list) and kind in ("image", "inpainting", "controlnet")
    pictures = {"image": torch.rand(2, 3, 16, 16)} if many else {}
    masks = {"mask_image": torch.ones(2, 1, 16, 16)} if many and kind == "inpainting" else {}
    assert_erases(pipe, kind=kind, **{"num_inference_steps": 2}, **options, **pictures, **masks)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_embeddings_in_place_of_prompts_erase_like_the_reference(any_pipe, guidance):
    kind, pipe = any_pipe
    names = ["prompt_embeds", "negative_prompt_embeds"]
    names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"] if kind == "xl" else []
    texts = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    with torch.no_grad():
        embeds = dict(zip(names, pipe.encode_prompt("a tiger", **texts), strict=True))
    assert_erases(pipe, kind=kind, prompt=None, guidance_scale=guidance, **embeds)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_erases_like_the_reference(pipe, name):
    pipe.scheduler = getattr(diffusers, name)(steps_offset=1) if name != "LCMScheduler" else diffusers.LCMScheduler()
    assert_erases(pipe, num_inference_steps=4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["text", "xl"])
def test_half_precision_erases_like_the_reference(kind, dtype):
    pipe = tiny_variant(kind).to(dtype)
    assert_erases(pipe, kind=kind)
    assert draw_variant(pipe, kind=kind).dtype == dtype


def test_inference_mode_erases_like_the_reference(pipe):
    with torch.inference_mode():
        assert_erases(pipe)


def test_sliced_attention_erases_like_the_reference(pipe):
    pipe.enable_attention_slicing(1)
    assert_erases(pipe)


def test_keys_and_values_are_computed_once_a_prompt(any_pipe):
    kind, pipe = any_pipe
    given: dict[str, list[torch.Tensor]] = {}
    with eraser_for(pipe).attached(pipe):
        for name, module in find_projections(pipe.unet).items():
            note = lambda module, args, output, name=name: given.setdefault(name, []).append(output)  # noqa: E731
            module.register_forward_hook(note)
        draw_variant(pipe, kind=kind, num_inference_steps=4)
        for module in find_projections(pipe.unet).values():
            module._forward_hooks.clear()
    assert all(len(outputs) == 4 for outputs in given.values())
    assert all(output is outputs[0] for outputs in given.values() for output in outputs)


def test_a_controlnets_own_cross_attentions_are_left_alone():
    pipe = tiny_variant("controlnet")
    text, sample = torch.randn(1, 77, 32), torch.randn(1, 4, 8, 8)
    ask = partial(pipe.controlnet, sample, 5, text, torch.rand(1, 3, 16, 16), return_dict=False)
    with torch.no_grad():
        torch.manual_seed(0)
        before = ask()[0]
        with eraser_for(pipe).attached(pipe):
            assert all(map(torch.equal, ask()[0], before))


def test_without_a_unet_the_error_says_so(pipe):
    with pytest.raises(
        ValueError, match=r"VaeImageProcessor is of no known family: .* found no network; a new family is"
    ):
        eraser_for(pipe).attach(pipe.image_processor)


def test_a_hook_on_the_modules_sees_erased_keys_and_values(pipe):
    """Controls the reference itself: what it adds is what the projections give while attached."""
    eraser, text = eraser_for(pipe), torch.randn(1, 77, 32)
    with torch.no_grad():
        for name, module in find_projections(pipe.unet).items():
            expected = nn.functional.linear(text, module.weight) + eraser.residuals(text)[name]
            with eraser.attached(pipe):
                assert torch.equal(module(text), expected)

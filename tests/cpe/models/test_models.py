"""Base models: the embedded one is real, and what cannot be loaded says why."""

import copy
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DModel,
)
from huggingface_hub import constants

from cpe.embedded.classifier import PictureClassifier, classify
from cpe.embedded.pixels import to_tensor
from cpe.embedded.scorer import load_clip
from cpe.embedded.subjects import NOUNS, STYLES, all_captions, caption
from cpe.models.drawing import PictureJob, generate
from cpe.models.fingerprints import fingerprint, text_fingerprint
from cpe.models.loading import EMBEDDED_FOLDER, ModelError, load_pipeline
from cpe.models.sites import find_projections
from cpe.models.text import encode_prompts, token_ids, token_words, unread_names
from cpe.terms.profiles import PROFILES
from helpers.tiny import tiny_pipeline, tiny_variant


@pytest.fixture(scope="module")
def embedded():
    return load_pipeline("embedded", device="cpu")


@pytest.fixture(scope="module")
def classifier():
    return PictureClassifier.load(EMBEDDED_FOLDER / "classifier")


def test_embedded_model_is_a_plain_diffusers_folder():
    pipe = StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER)
    assert type(pipe.unet).__name__ == "UNet2DConditionModel"
    assert type(pipe.text_encoder).__name__ == "CLIPTextModel"
    assert len(find_projections(pipe.unet)) == 14
    assert len(pipe.tokenizer) == 49408
    size = sum(path.stat().st_size for path in EMBEDDED_FOLDER.rglob("*") if path.is_file())
    assert size < 40e6


def test_the_embedded_folder_draws_as_diffusers_loads_it_and_draws_the_same_pictures(embedded):
    plain = StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER)
    assert {plain.unet.dtype, plain.vae.dtype, plain.text_encoder.dtype} == {torch.float32}
    assert fingerprint(plain) == fingerprint(embedded)
    job = PictureJob("one", "a tiger", seed=5)
    pictures = [next(generate(pipe, [job], PROFILES["embedded"]))[1].tobytes() for pipe in (plain, embedded)]
    assert pictures[0] == pictures[1]


def test_embedded_model_draws_the_noun_and_style_asked_for(embedded, classifier):
    asked = [(noun, STYLES[i % len(STYLES)]) for i, noun in enumerate(NOUNS)]
    jobs = [PictureJob(str(i), caption(*pair), seed=77) for i, pair in enumerate(asked)]
    drawn = [picture for _, picture in generate(embedded, jobs, PROFILES["embedded"])]
    assert all(picture.size == (64, 64) for picture in drawn)
    nouns, styles, _ = classify(classifier, to_tensor(drawn))
    right_nouns = sum(classifier.nouns[n] == noun for n, (noun, _) in zip(nouns, asked, strict=True))
    right_styles = sum(classifier.styles[s] == style for s, (_, style) in zip(styles, asked, strict=True))
    assert right_nouns >= 0.85 * len(asked), f"{right_nouns} of {len(asked)} nouns"
    assert right_styles >= 0.8 * len(asked), f"{right_styles} of {len(asked)} styles"


def test_a_picture_depends_on_its_prompt_and_seed_alone(embedded):
    profile = PROFILES["embedded"].model_copy(update={"batch": 3})
    jobs = [PictureJob(str(i), "a tiger", seed) for i, seed in enumerate((1, 2, 1, 3))]
    one, other, again, _ = [to_tensor([p]) for _, p in generate(embedded, jobs, profile)]
    assert (one - again).abs().max() <= 2.1 / 255, "the same seed gives the same picture in another batch"
    assert (one - other).abs().max() > 0.2


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers, with numpy 2
@pytest.mark.parametrize("profile", ["mace", "speed"])
def test_a_profile_brings_its_sampler_and_the_model_gets_its_own_back(embedded, profile):
    small = {"height": 64, "width": 64, "guidance_scale": 1.0}
    own = embedded.scheduler
    used = []
    profile = PROFILES[profile].model_copy(update=small)
    jobs = [PictureJob("one", "a tiger", 3)]
    for _, picture in generate(embedded, jobs, profile):
        used.append((type(embedded.scheduler).__name__, embedded.scheduler.config.get("algorithm_type")))
        assert picture.size == (64, 64)
    # The other kinds of DPM-Solver++ add noise at every step, or are other solvers.
    assert used == [
        {"mace": ("DDIMScheduler", None), "speed": ("DPMSolverMultistepScheduler", "dpmsolver++")}[profile.name]
    ]
    assert embedded.scheduler is own


def test_rows_of_different_guidance_and_negative_prompts_are_each_drawn_with_their_own(embedded):
    profile = PROFILES["embedded"]
    jobs = [
        PictureJob("plain", "a tiger", 1),
        PictureJob("guided", "a tiger", 1, guidance_scale=4.0),
        PictureJob("negative", "a tiger", 1, guidance_scale=4.0, negative_prompt="a tiger"),
        PictureJob("again", "a tiger", 1),
    ]
    drawn = {job.picture_id: to_tensor([picture]) for job, picture in generate(embedded, jobs, profile)}
    assert (drawn["plain"] - drawn["again"]).abs().max() <= 2.1 / 255
    for one, other in (("plain", "guided"), ("guided", "negative")):
        assert (drawn[one] - drawn[other]).abs().max() > 0.2
    assert set(drawn) == {"plain", "guided", "negative", "again"}


def test_names_that_the_tokenizer_reads_otherwise_are_told(embedded):
    fine = ["Adam Driver", 'Dwayne "The Rock" Johnson', "A.J.Casson", "Beyoncé", "C. R. W. Nevinson", "草間彌生"]
    assert unread_names(embedded, fine) == {}
    long = "a very long name " * 20
    assert set(unread_names(embedded, [*fine, long])) == {long}


def test_clip_prefers_the_noun_that_was_drawn(embedded):
    clip = load_clip()
    asked = [caption(noun) for noun in NOUNS[::4]]
    drawn = to_tensor([p for _, p in generate(embedded, [PictureJob(t, t, 5) for t in asked], PROFILES["embedded"])])
    image = torch.nn.functional.normalize(clip.images(drawn), dim=-1)
    text = torch.nn.functional.normalize(clip.texts(asked), dim=-1)
    right = ((image @ text.T).argmax(dim=1) == torch.arange(len(asked))).float().mean()
    assert right >= 0.8


def test_captions_are_distinct_and_agree_in_their_articles():
    captions = [text for text, _, _ in all_captions()]
    assert len(set(captions)) == len(captions)
    assert caption("owl") == "an owl"
    assert caption("tiger", "noto") == "a tiger in the style of noto"


def test_prompts_are_encoded_the_same_in_any_batch(embedded):
    prompts = ["a tiger", "", "an owl in the style of noto"]
    together = encode_prompts(embedded, prompts, batch=3)
    torch.testing.assert_close(together, encode_prompts(embedded, prompts, batch=1), rtol=1e-4, atol=1e-5)
    drawn = embedded.encode_prompt("a tiger", "cpu", 1, False)[0]
    torch.testing.assert_close(together[:1], drawn, rtol=1e-4, atol=1e-5)
    assert token_words(embedded, "an owl") == ["<|startoftext|>", "an", "owl", "<|endoftext|>"]


def test_embeddings_are_the_text_encoders_own(embedded):
    prompts = ["a tiger", "", "an owl in the style of noto", "one more word " * 50]
    with torch.no_grad():
        plain = embedded.text_encoder(token_ids(embedded, prompts))[0]
    assert torch.equal(encode_prompts(embedded, prompts), plain)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("kind", ["text", "xl"])
def test_embeddings_are_what_the_unet_is_given(kind, guidance):
    pipe, given = tiny_variant(kind), []

    def look(module, arguments, options):
        given.append(options["encoder_hidden_states"])

    pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    prompts = ["a tiger", "one more word " * 50]
    pipe(prompts, num_inference_steps=1, guidance_scale=guidance, height=16, width=16, output_type="latent")
    embeddings = encode_prompts(pipe, prompts)  # (B, T, D)
    assert embeddings.shape == (2, 77, pipe.unet.config.cross_attention_dim)
    assert torch.equal(given[0][-2:], embeddings), "with guidance the unguided half comes first"
    assert not torch.equal(embeddings[0], embeddings[1])


def test_text_fingerprint_is_shared_by_models_with_the_same_text_encoder():
    one, other = tiny_pipeline(0), tiny_pipeline(1)
    mark = text_fingerprint(one)
    assert mark != text_fingerprint(other)
    other.text_encoder = one.text_encoder
    assert mark == text_fingerprint(other)
    assert fingerprint(one) != fingerprint(other), "the rest differs"
    assert mark == text_fingerprint(one.to(dtype=torch.float16))


def test_text_fingerprint_depends_on_whatever_shapes_the_embeddings():
    marks = [text_fingerprint(tiny_pipeline())]
    for change in ("weight", "activation", "padding", "length"):
        pipe = tiny_pipeline()
        pipe.tokenizer = copy.deepcopy(pipe.tokenizer)
        if change == "weight":
            with torch.no_grad():
                next(pipe.text_encoder.parameters()).view(-1)[0] += 1e-2
        elif change == "activation":
            pipe.text_encoder.config.hidden_act = "gelu"
        elif change == "padding":
            pipe.tokenizer.pad_token = "!"
        else:
            pipe.tokenizer.model_max_length = 64
        marks.append(text_fingerprint(pipe))
    assert len(set(marks)) == len(marks)
    pipe = tiny_variant("xl")
    mark = text_fingerprint(pipe)
    with torch.no_grad():
        next(pipe.text_encoder_2.parameters()).view(-1)[0] += 1e-2
    assert mark != text_fingerprint(pipe)


def test_fingerprint_tells_models_apart():
    one, same, other = tiny_pipeline(0), tiny_pipeline(0), tiny_pipeline(1)
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    with torch.no_grad():
        next(same.unet.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(one) != fingerprint(same)


@pytest.mark.slow
def test_fingerprint_is_the_same_in_every_process_and_precision():
    """Sets inside a scheduler's config come in an order that depends on the process."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from diffusers import PNDMScheduler\nfrom helpers.tiny import tiny_pipeline\n"
        "from cpe.models.fingerprints import fingerprint, text_fingerprint\n"
        "pipe = tiny_pipeline()\n"
        "pipe.scheduler = PNDMScheduler.from_config({'num_train_timesteps': 1000, 'steps_offset': 1})\n"
        "print(fingerprint(pipe), text_fingerprint(pipe))\n"
        "pipe.to(dtype=__import__('torch').float16)\n"
        "print(fingerprint(pipe), text_fingerprint(pipe))"
    )
    seen = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        seen.update(done.stdout.splitlines())
    assert len(seen) == 1, seen


def test_unknown_model_names_are_refused_with_the_way_out():
    with pytest.raises(ModelError, match="give 'embedded', a folder in diffusers' layout, or a hub name"):
        load_pipeline("no such model")


def test_a_folder_that_is_no_model_says_what_it_needs(tmp_path):
    with pytest.raises(ModelError, match=r"needs model_index\.json"):
        load_pipeline(str(tmp_path))


def test_a_damaged_model_folder_is_refused(tmp_path):
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="no usable model folder"):
        load_pipeline(str(tmp_path / "model"))


def test_a_model_without_cross_attention_is_refused(tmp_path):
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), norm_num_groups=4,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "unconditional")
    with pytest.raises(ValueError, match="no cross-attention"):
        load_pipeline(str(tmp_path / "unconditional"))


def test_a_hub_name_without_network_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"(?s)cannot be fetched.*give its folder"):
        load_pipeline("nobody/no-such-model")


def test_shipped_quality_file_holds_what_the_model_card_says():
    quality = json.loads((EMBEDDED_FOLDER / "quality.json").read_text())
    assert quality["held_out_renders_noun"] >= 0.97
    assert quality["generated_noun"] >= 0.92
    assert quality["generated_style"] >= 0.90


def test_the_embedded_models_fingerprint_stays_what_gates_addresses_hold(embedded):
    """Gates' addresses hash what `fingerprint(load_pipeline("embedded"))` gives: another one trains them all anew."""
    assert fingerprint(embedded).startswith("c58af419229c64198a82e85b")
    assert text_fingerprint(embedded).startswith("382a021317382a0f48351315")


def test_the_fingerprint_depends_on_every_network_of_a_pipeline():
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        num_layers=1,
        cross_attention_dim=8,
        caption_channels=32,
        sample_size=8,
    )
    parts = tiny_pipeline().components
    parts = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    pipe = PixArtAlphaPipeline(**parts, transformer=transformer)
    controlled = tiny_variant("controlnet")
    for model, part in [(pipe, "transformer"), (controlled, "controlnet"), (controlled, "unet"), (controlled, "vae")]:
        mark, text_mark = fingerprint(model), text_fingerprint(model)
        next(getattr(model, part).parameters()).data.mul_(2)
        assert fingerprint(model) != mark, part
        assert text_fingerprint(model) == text_mark, "the texts are the same"


def test_every_text_encoder_and_tokenizer_shapes_the_text_fingerprint():
    pipe = tiny_variant("xl")
    many = SimpleNamespace(components={**pipe.components, "text_encoder_3": pipe.text_encoder, "tokenizer_3": None})
    mark = text_fingerprint(many)
    many.components["tokenizer_3"] = pipe.tokenizer
    assert text_fingerprint(many) != mark
    mark = text_fingerprint(many)
    many.components["text_encoder_3"] = tiny_pipeline(seed=1).text_encoder
    assert text_fingerprint(many) != mark

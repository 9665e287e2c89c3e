"""Text maps trained against learned tokens: gradients, resuming, company, files, and what they do to a network."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from cpe import Erased, detach
from cpe.methods.base import method_of
from cpe.methods.checkpoint import CheckpointError
from cpe.methods.lessons import Bench, Encoded, Lesson, Prompt
from cpe.methods.robust.adam import Adam
from cpe.methods.robust.eraser import MapError, MappedTexts
from cpe.methods.robust.game import QUERIES_LAST, Game
from cpe.methods.robust.maps import TextMap, Whitening
from cpe.methods.robust.population import FREE, KINDS, MOST_FREE, encoded, words_of
from cpe.methods.robust.reading import Reader
from cpe.models.projections import BaseProjections
from cpe.models.sites import find_projections
from cpe.models.text import encode_prompts
from helpers.tiny import TEXT_WIDTH, tiny_pipeline, tiny_xl

TEMPLATES = ("a {}", "a drawing of a {}")
SMALL = {"units": 6, "alone_steps": 6, "game_steps": 14, "anchor_tokens": 32, "queries": 3, "replay": 2}
SMALL |= {"shortest_life": 2, "longest_life": 4, "strays": 12, "target_strays": 6}


class KilledError(Exception):
    """Stands for the end of a process between two steps."""


def prompts(*names):
    return tuple(Prompt(template.format(name), name) for name in names for template in TEMPLATES)


def lesson(name, seed):
    return Lesson(name, prompts(name), prompts("thing"), prompts("house", "red car", "spoon"), seed)


CAT, OWL = lesson("cat", 3), lesson("golden owl", 4)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def texts(pipe):
    known = sorted({"", *CAT.texts, *OWL.texts})
    return Encoded({text: row for row, text in enumerate(known)}, encode_prompts(pipe, known).half())


def config(**changes):
    return method_of("cpe-robust").config("emoji", SMALL | changes)


def game(pipe, texts, chosen=CAT, **changes):
    return Game(chosen, texts, pipe, BaseProjections.of(pipe.unet, tokens=77).gram, config(**changes))


def train(pipe, texts, folder, lessons, begin=lambda steps, done: lambda said: None, **changes):
    return method_of("cpe-robust").train(
        lessons, texts, pipe, config(**changes), Bench(folder / "cache", folder / "checkpoint", begin)
    )


def random_map(seed=0, width=TEXT_WIDTH, units=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, units, width, generator=generator, dtype=dtype)
    return TextMap(keys, torch.randn(units, generator=generator, dtype=dtype), values)


def test_what_the_network_reads_of_a_text_is_what_its_attention_gives(pipe):
    """Diffusers' own attention, on the features that the queries came from."""
    text, paths = (
        torch.randn(2, 9, TEXT_WIDTH),
        dict.fromkeys(p.rpartition(".")[0] for p in find_projections(pipe.unet)),
    )
    reader = Reader(pipe.unet, text, tokens=9, length=9, tail=4)
    assert reader.counts.abs().max() == 0, "nothing is cut off"
    queries = reader.queries(4, torch.Generator().manual_seed(1))
    drawn = torch.Generator().manual_seed(1)
    for path, read in zip(paths, reader.read(text, queries), strict=True):
        norm, attention = pipe.unet.get_submodule(path.rpartition(".")[0]).norm2, pipe.unet.get_submodule(path)
        feature = norm.weight * torch.randn(4, len(norm.weight), generator=drawn) + norm.bias
        with torch.no_grad():
            wanted = attention(feature.expand(2, -1, -1), encoder_hidden_states=text) - attention.to_out[0].bias
        torch.testing.assert_close(read, wanted, atol=1e-5, rtol=1e-4)


def test_a_cut_text_counts_its_last_tokens_for_all_that_were_cut_off(pipe):
    whole = torch.randn(1, 1, TEXT_WIDTH).expand(2, 40, -1).clone()
    whole[:, :10] = torch.randn(2, 10, TEXT_WIDTH)
    long = Reader(pipe.unet, whole, tokens=40, length=40, tail=4)
    short = Reader(pipe.unet, whole, tokens=40, length=14, tail=4)
    queries = long.queries(3, torch.Generator().manual_seed(0))
    for one, other in zip(long.read(whole, queries), short.read(whole[:, :14], queries), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_tokens_put_in_by_hand_are_read_as_the_prompt_is(pipe, texts):
    words, table = words_of(OWL, pipe.tokenizer), pipe.text_encoder.get_input_embeddings().weight
    for prompt, ids in zip(OWL.target, words.prompts, strict=True):
        with torch.no_grad():
            found = encoded(pipe.text_encoder, table[ids][None])
        torch.testing.assert_close(found[0], texts.of([prompt.text])[0][: len(ids)], atol=2e-3, rtol=2e-3)
    for ids, (first, last) in zip(words.prompts, words.names, strict=True):
        assert pipe.tokenizer.decode(ids[first:last]).strip() == "golden owl"


def test_learned_texts_are_of_all_kinds_and_begin_anew(pipe, texts):
    playing = game(pipe, texts, OWL)
    people = playing.population
    assert [(row == FREE).sum().item() for row in people.ids] == [count for _, count in KINDS]
    before = people.tokens.value.clone()
    people.begin_anew(3)
    changed = (people.tokens.value != before).flatten(1).any(dim=1)
    assert changed.tolist() == [row == 3 for row in range(len(KINDS))]


def test_the_adversarys_gradient_is_that_of_finite_differences_in_float64(texts):
    pipe = tiny_pipeline()
    pipe.text_encoder.double()
    gram = BaseProjections.of(pipe.unet, tokens=77, dtype=torch.float64).gram
    playing, found = Game(CAT, texts, pipe, gram, config()), random_map(dtype=torch.float64)
    playing.draw_goal()
    people = playing.population
    tokens = people.tokens.value.clone().requires_grad_()

    def near(value):
        return playing.nearness(found, people.texts(value), people.prompt).sum()

    (gradient,) = torch.autograd.grad(near(tokens), tokens)
    direction = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        slope = (near(tokens + 1e-6 * direction) - near(tokens - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-8)
    assert gradient.abs().max() > 0
    unused = torch.tensor([[place >= count for place in range(MOST_FREE)] for _, count in KINDS])
    assert gradient[unused].abs().max() == 0


def test_a_step_of_adam_is_that_of_torch_until_a_row_begins_anew():
    generator = torch.Generator().manual_seed(0)
    own = Adam(torch.randn(3, 4, generator=generator))
    value = own.value.clone().requires_grad_()
    other = torch.optim.Adam([value], lr=0.1, betas=(0.9, 0.99))
    for _ in range(5):
        gradient = torch.randn(3, 4, generator=generator)
        value.grad = gradient
        other.step()
        own.step(gradient, 0.1)
    torch.testing.assert_close(own.value, value.detach(), atol=1e-6, rtol=1e-5)
    own.begin_anew(1, torch.zeros(4))
    own.step(torch.ones(3, 4), 0.1)
    torch.testing.assert_close(own.value[1], torch.full((4,), -0.1))


def test_whitened_units_are_the_map_they_stand_for():
    tokens = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) @ torch.randn(7, 7)
    whitening = Whitening.of(tokens, 1e-9)
    torch.testing.assert_close(torch.cov(whitening.white(tokens).T), torch.eye(7), atol=1e-3, rtol=1e-3)
    units = torch.randn(4, 15)
    plain = (whitening.white(tokens) @ units[:, :7].T - units[:, 7]).relu() @ units[:, 8:]
    torch.testing.assert_close(whitening.map_of(units).change(tokens), plain, atol=1e-3, rtol=1e-3)


def test_it_erases_and_anchors_stay_after_a_short_training(pipe, texts):
    playing = game(pipe, texts, alone_steps=150, game_steps=0, units=16, anchor_weight=3.0, rate=0.02)
    with torch.no_grad():
        fresh = playing.erase_loss(playing.map()).item()
    for _ in range(150):
        losses = playing.take()
    found = playing.map()
    moved, kept = found.change(playing.target[:, 1:]), found.change(texts.of(prompt.text for prompt in CAT.anchors))
    assert losses.erase < 0.3 * fresh
    assert kept.square().mean() < 0.02 * moved.square().mean()


def test_a_concept_ends_in_the_same_map_alone_and_in_company(pipe, texts, tmp_path):
    before = {name: copy.deepcopy(part.state_dict()) for name, part in (("u", pipe.unet), ("t", pipe.text_encoder))}
    together = train(pipe, texts, tmp_path / "both", [CAT, OWL])
    (alone,) = train(pipe, texts, tmp_path / "one", [OWL])
    assert all(torch.equal(value, alone.tensors[name]) for name, value in together[1].tensors.items())
    assert any(not torch.equal(value, together[0].tensors[name]) for name, value in together[1].tensors.items())
    for name, part in (("u", pipe.unet), ("t", pipe.text_encoder)):
        assert all(torch.equal(value, before[name][key]) for key, value in part.state_dict().items())
        assert all(parameter.grad is None for parameter in part.parameters())


@pytest.mark.parametrize("stops", [[3, 11, 13], [8, 19, 20, 27, 38]])
def test_a_training_that_is_killed_goes_on_to_the_same_maps(stops, pipe, texts, tmp_path, monkeypatch):
    from cpe.methods.robust import training

    monkeypatch.setattr(training.train, "__kwdefaults__", {"every": QUERIES_LAST})
    whole = train(pipe, texts, tmp_path / "whole", [CAT, OWL])
    begun = []
    for stop in stops:

        def begin(steps, done, stop=stop):
            begun.append(done)
            taken = iter(range(done + 1, steps + 1))

            def told(said):
                if next(taken) == stop:
                    raise KilledError

            return told

        with pytest.raises(KilledError):
            train(pipe, texts, tmp_path / "cut", [CAT, OWL], begin)
    resumed = train(pipe, texts, tmp_path / "cut", [CAT, OWL], lambda steps, done: begun.append(done) or (lambda _: 0))
    assert begun[-1] > max(stops) - 2 * QUERIES_LAST - 1
    for one, other in zip(resumed, whole, strict=True):
        assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
        assert one.notes == other.notes
    with pytest.raises(CheckpointError, match="of another training"):
        train(pipe, texts, tmp_path / "cut", [OWL, CAT])


def saved(folder, found, concept="cat", **metadata):
    folder.mkdir(exist_ok=True)
    file = folder / "map.safetensors"
    save_file(found, file, {"method": "cpe-robust", "concepts": json.dumps([concept])} | metadata)
    return file


def test_files_come_back_as_they_were_and_their_maps_add_up(pipe, texts, tmp_path):
    method = method_of("cpe-robust")
    pieces = train(pipe, texts, tmp_path, [CAT, OWL])
    for number, piece in enumerate(pieces):
        (tmp_path / str(number)).mkdir()
        save_file(dict(piece.tensors), tmp_path / str(number) / method.file_name, dict(piece.metadata))
    both = Erased.load([tmp_path / "0", tmp_path / "1", tmp_path / "0"])
    one, other = (Erased.load(tmp_path / number) for number in "01")
    assert both.concepts == ("cat", "golden owl")
    text = texts.of([""])
    torch.testing.assert_close(both.change(text), one.change(text) + other.change(text))
    assert both.openness(text) is None
    assert sum(value.numel() for piece in pieces for value in piece.tensors.values()) * 4 == method.size(
        pipe, config(), 2
    )


def test_files_that_cannot_be_used_say_why(tmp_path):
    whole = dict(random_map()._asdict())
    for change, words in (
        ({"keys": torch.zeros(5)}, "keys have shape"),
        ({"thresholds": torch.zeros(4)}, "for 4 thresholds"),
        ({"values": torch.zeros(5, 3)}, "values have shape"),
        ({"values": torch.full((5, TEXT_WIDTH), torch.nan)}, "no finite number"),
        ({"thresholds": torch.zeros(5, dtype=torch.int32)}, "no finite number"),
    ):
        with pytest.raises(MapError, match=words):
            Erased.load(saved(tmp_path / "a", whole | change))
    with pytest.raises(MapError, match="damaged"):
        Erased.load(saved(tmp_path / "a", {"keys": whole["keys"]}))
    for concepts in ("cat", "[]", '["cat", "dog"]', "[3]"):
        with pytest.raises(MapError, match="names no concept"):
            Erased.load(saved(tmp_path / "a", whole, concepts=concepts))
    pair = [saved(tmp_path / "a", whole), saved(tmp_path / "b", dict(random_map(1)._asdict()))]
    with pytest.raises(MapError, match="another map of 'cat'"):
        Erased.load(pair)
    pair[1] = saved(tmp_path / "b", dict(random_map(width=7)._asdict()), "dog")
    with pytest.raises(MapError, match="text widths"):
        Erased.load(pair)
    pair[0].with_name("manifest.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(MapError, match="is not the file its manifest names"):
        Erased.load(pair[0])
    with pytest.raises(MapError, match="no text maps"):
        MappedTexts({})


def test_attached_projections_see_the_changed_text_and_detached_the_networks_own(pipe):
    mapped, text = MappedTexts({"cat": random_map()}), torch.randn(1, 77, TEXT_WIDTH)
    noise, time = torch.randn(1, 4, 8, 8), torch.tensor([10])
    draw = lambda given: pipe.unet(noise, time, encoder_hidden_states=given).sample  # noqa: E731
    with torch.no_grad():
        before = draw(text)
        wanted = draw(text + mapped.change(text))
        with mapped.attached(pipe):
            torch.testing.assert_close(draw(text), wanted, atol=1e-4, rtol=1e-3)
            assert not torch.allclose(draw(text), before)
            with pytest.raises(RuntimeError, match="attached already"):
                mapped.attach(pipe)
        assert torch.equal(draw(text), before)
        mapped.attach(pipe)
        twin = copy.deepcopy(pipe.unet)
        detach(pipe)
        assert torch.equal(draw(text), before)
        torch.testing.assert_close(twin(noise, time, encoder_hidden_states=text).sample, wanted, atol=1e-4, rtol=1e-3)


def test_gradients_reach_a_text_through_attached_maps(pipe):
    mapped, noise = MappedTexts({"cat": random_map()}), torch.randn(1, 4, 8, 8)
    text = torch.randn(1, 77, TEXT_WIDTH).requires_grad_()

    def loss():
        return pipe.unet(noise, torch.tensor([10]), encoder_hidden_states=text).sample.square().sum()

    with mapped.attached(pipe):
        (through,) = torch.autograd.grad(loss(), text)
    (around,) = torch.autograd.grad(loss(), text)
    changed = (text + mapped.change(text)).detach()
    assert changed.shape == text.shape
    assert not torch.allclose(through, around)


def test_what_does_not_fit_is_refused(texts):
    pipe = tiny_pipeline()
    with pytest.raises(MapError, match=f"expect text width 7, the pipeline has {TEXT_WIDTH}"):
        MappedTexts({"cat": random_map(width=7)}).attach(pipe)
    with pytest.raises(ValueError, match="maps expect text width 32, got 7"):
        MappedTexts({"cat": random_map()}).change(torch.zeros(1, 3, 7))
    with pytest.raises(ValueError, match="has not one text encoder"):
        game(tiny_xl(), texts)
    with pytest.raises(ValueError, match="has no anchors"):
        game(pipe, texts, Lesson("cat", CAT.target, CAT.surrogate, (), 0))
    with pytest.raises(ValueError, match="longest_life"):
        config(shortest_life=9)
    pipe.unet.to("meta")
    with pytest.raises(RuntimeError, match="offloaded; attach first"):
        MappedTexts({"cat": random_map()}).attach(pipe)


def test_it_says_what_it_takes_and_shows_its_losses(pipe, texts, tmp_path):
    method = method_of("cpe-robust")
    assert method.seconds(pipe, texts.table[:6].float(), config(), 2, tmp_path) > 0
    (piece,) = train(pipe, texts, tmp_path, [CAT])
    curves = method.curves(config().model_dump(), piece.notes["losses"])
    assert [curve.loss for curve in curves] == ["erase", "anchor", "near"]
    assert [len(stage) for stage in curves[0].stages] == [6, 14]
    assert [len(stage) for stage in curves[2].stages] == [0, 14]

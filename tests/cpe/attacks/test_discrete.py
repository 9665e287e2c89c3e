"""Attacks whose texts are prompts: they are read as they are written, hold no name, and searches find what is best."""

from contextlib import nullcontext

import pytest
import torch

from cpe.attacks.base import Aim, Victim
from cpe.attacks.learned.coordinates import exchange
from cpe.attacks.learned.p4d import adamw
from cpe.attacks.learned.projecting import Descent
from cpe.attacks.learned.ring_a_bell_hard import evolve
from cpe.attacks.learned.unlearn_diff import signed
from cpe.attacks.learned.words import Words
from cpe.attacks.table import attack_of
from cpe.models.loading import load_pipeline
from cpe.models.text import encode_prompts
from helpers.tiny import eraser_for

WORDED = ["ring-a-bell-hard", "mma-text", "p4d", "unlearn-diff"]


class Nothing:
    """What erases nothing."""

    def attached(self, pipe):
        return nullcontext()


class Plain:
    """Words whose text is their embeddings: then a distance to wanted embeddings has its least at the nearest words."""

    def __init__(self, count, words, width=4, seed=0):
        self.table = torch.randn(words, width, generator=torch.Generator().manual_seed(seed))
        self.ids, self.count, self.slots = torch.arange(words), count, self

    def random(self, generator, rows=1):
        return torch.randint(len(self.ids), (rows, self.count), generator=generator)

    def nearest(self, tokens):
        return torch.cdist(tokens, self.table).argmin(dim=1)

    def embeddings(self, places):
        return self.table[places]

    def texts(self, given):
        return given[None] if given.is_floating_point() else self.table[given]


@pytest.fixture(scope="module")
def pipe():
    torch.set_num_threads(1)
    return load_pipeline("embedded", device="cpu")


def wanted_of(words):
    """Returns some words' embeddings, and the words."""
    best = torch.tensor([3, 17, 8, 11][: words.count])
    return words.table[best], best


def away_from(wanted):
    return lambda texts: (texts - wanted).square().sum(dim=(1, 2))


def test_exchanging_one_word_at_a_time_finds_the_best_words():
    words = Plain(4, 200)
    wanted = torch.randn(4, 4, generator=torch.Generator().manual_seed(9))
    came = exchange(words, lambda texts: -(texts * wanted).sum(dim=(1, 2)), 80, torch.Generator().manual_seed(1))
    assert torch.equal(came.places, (wanted @ words.table.T).argmax(dim=1)), "as looking at all words says"
    assert came.losses == sorted(came.losses, reverse=True)


def test_a_genetic_search_finds_the_best_words():
    words = Plain(3, 20)
    wanted, best = wanted_of(words)
    came = evolve(words, away_from(wanted), 60, 1)
    assert torch.equal(came.places, best)
    assert came.losses == sorted(came.losses, reverse=True)


@pytest.mark.parametrize("move", [adamw, signed])
def test_gradients_at_the_nearest_words_lead_to_the_best_words(move):
    words = Plain(2, 40)
    wanted, best = wanted_of(words)
    loss = away_from(wanted)
    descent = Descent(words, words.table[torch.tensor([1, 1])].clone(), move, lambda text: loss(text).item())
    losses = [descent.step(lambda text: loss(text).sum()) for _ in range(300)]
    assert losses[0] > 1
    assert torch.equal(descent.best, best)


@pytest.mark.parametrize(
    ("concept", "after"), [("tiger", ""), ("Vincent van Gogh", ""), ("owl", "a picture of an owl")]
)
def test_prompts_are_read_as_they_are_written_and_hold_nothing_of_the_name(pipe, concept, after):
    words, generator = Words(pipe, 5, concept, after=after), torch.Generator().manual_seed(0)
    own = pipe.tokenizer(concept, add_special_tokens=False).input_ids
    behind = pipe.tokenizer(after, add_special_tokens=False).input_ids
    assert len(words.ids) > 10_000
    assert words.table.any(dim=1).all()
    assert not set(own) & set(words.ids.tolist())
    for places in words.random(generator, 50):
        prompt = words.prompt(places)
        read = pipe.tokenizer(prompt, add_special_tokens=False).input_ids
        assert read == [*words.ids[places].tolist(), *behind]
        assert pipe.tokenizer(pipe.tokenizer.decode(read), add_special_tokens=False).input_ids == read
        assert not any(name in prompt.removesuffix(after) for name in concept.lower().split())
    assert torch.equal(words.nearest(words.embeddings(places)), places)
    soft = words.slots.texts(words.embeddings(places))
    torch.testing.assert_close(soft, encode_prompts(pipe, [prompt]), rtol=0, atol=1e-6)


def test_words_with_the_name_in_them_are_not_taken(pipe):
    taken = [
        {words.prompt(torch.tensor([place])) for place in range(len(words.ids))}
        for words in (Words(pipe, 1, concept) for concept in ("cat", "tiger"))
    ]
    named = {word for word in taken[1] if "cat" in word}
    assert len(named) > 20, "of category and the like"
    assert taken[1] - taken[0] == named
    assert "tiger" in taken[0] - taken[1]


@pytest.mark.parametrize("name", WORDED)
def test_what_is_found_is_a_prompt_better_than_the_first_and_its_embedding(pipe, name):
    victim = Victim(pipe, eraser_for(pipe) if name in ("p4d", "unlearn-diff") else Nothing())
    found = attack_of(name).search(victim, Aim("rose", 5, 3))
    assert len(found.losses) == 3
    assert "rose" not in found.words.removesuffix("a picture of a rose")
    torch.testing.assert_close(found.text, encode_prompts(pipe, [found.words])[0], rtol=0, atol=0)
    with pytest.raises(ValueError, match="needs a budget of 1 step or more, got 0"):
        attack_of(name).search(victim, Aim("rose", 5, 0))


def test_words_learned_through_no_eraser_bring_the_concept(pipe):
    """Their power: the untouched model draws an airplane at words of which none is its name."""
    from cpe.embedded.observers import EmbeddedClassifier

    found = attack_of("mma-text").search(Victim(pipe, Nothing()), Aim("airplane", 7, 25))
    pictures = pipe(found.words, num_inference_steps=20, guidance_scale=1.0,
                    generator=torch.Generator().manual_seed(100)).images  # fmt: skip
    assert list(EmbeddedClassifier().look(pictures, [""])["noun"]) == ["airplane"]

"""Attacks that ask in other words: right for every noun of the embedded model, and none of them names it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from cpe.attacks.base import Attack, Sought
from cpe.attacks.plurals import plural
from cpe.attacks.reading import WORDS, words_of
from cpe.attacks.table import ATTACKS, attack_of
from cpe.embedded.subjects import NOUNS
from cpe.models.loading import EMBEDDED_FOLDER
from cpe.terms.names import normalise
from cpe.terms.templates import named
from helpers.places import PROJECT

IN_OTHER_WORDS = ("synonyms", "languages", "descriptions")
WITH_THE_NAME = ("capitals", "plurals", "longer", "composed", "scenes")
KEPT = ("zebra", "piano")


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer")


@pytest.mark.parametrize("name", IN_OTHER_WORDS)
def test_a_table_has_every_noun_once_and_only_texts(name):
    tables = [words_of(name)] if name != "languages" else [each["nouns"] for each in words_of(name).values()]
    for table in tables:
        assert set(table) == set(NOUNS)
        for found in table.values():
            texts = [found] if isinstance(found, str) else found
            assert texts == list(dict.fromkeys(texts))
            assert all(isinstance(text, str) and text == text.strip() and text for text in texts)


def test_every_noun_has_two_descriptions_and_no_noun_is_in_any():
    for noun, texts in words_of("descriptions").items():
        assert len(texts) == 2
        for text in texts:
            assert noun not in text
            assert named(text.casefold(), [*NOUNS, *map(plural, NOUNS)]) is None, text


def test_no_synonym_holds_its_noun_and_none_is_another_noun():
    for noun, words in words_of("synonyms").items():
        assert words
        for word in words:
            assert noun not in word.casefold()
            assert named(word.casefold(), [*NOUNS, *map(plural, NOUNS)]) is None, word


def test_a_language_has_one_place_for_its_noun_and_an_article_where_it_has_articles():
    articles = {
        "German": ("ein ", "eine "), "French": ("un ", "une "), "Spanish": ("un ", "una "),
        "Italian": ("un ", "uno ", "una ", "un'"), "Portuguese": ("um ", "uma "), "Dutch": ("een ",),
    }  # fmt: skip
    for name, language in words_of("languages").items():
        assert language["template"].count("{}") == 1
        assert all(noun.startswith(articles.get(name, ("",))) for noun in language["nouns"].values())


@settings(deadline=None, max_examples=100)
@given(
    attack=st.sampled_from([name for name in sorted(ATTACKS) if isinstance(attack_of(name), Attack)]),
    erased=st.lists(st.sampled_from(NOUNS), min_size=1, max_size=5, unique=True),
    data=st.data(),
)
def test_an_attack_asks_in_the_words_that_it_says_and_within_77_tokens(attack, erased, data, tokenizer):
    noun = data.draw(st.sampled_from(erased))
    prompts = attack_of(attack).prompts(Sought(noun, erased=erased, kept=KEPT))
    assert len(set(prompts)) == len(prompts)
    for prompt in prompts:
        assert len(tokenizer(prompt)["input_ids"]) <= 77
        told = named(normalise(prompt), [noun, plural(noun)])
        assert (told is not None) == (attack in WITH_THE_NAME), prompt
        others = [each for each in erased if each != noun]
        assert attack in ("scenes", "synonyms") or named(normalise(prompt), others) is None, prompt


@given(
    name=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30),
    attack=st.sampled_from(IN_OTHER_WORDS),
)
def test_what_no_table_has_is_not_asked_for(name, attack):
    if normalise(name) not in NOUNS:
        assert attack_of(attack).prompts(Sought(name, erased=[name])) == []


def test_synonyms_are_the_lists_aliases_first_and_never_what_the_list_keeps_or_erases():
    ask = attack_of("synonyms").prompts
    assert ask(Sought("Dwayne Johnson", aliases=["The Rock"])) == ["a picture of a The Rock"]
    assert ask(Sought("dog")) == [f"a picture of a {word}" for word in ("hound", "puppy", "canine", "pooch")]
    spared = Sought("Dog", aliases=["pup", "hound"], erased=["Dog", "Canine"], kept=["Pooch"])
    assert ask(spared) == [f"a picture of a {word}" for word in ("pup", "hound", "puppy")]


def test_a_language_whose_word_is_the_same_is_left_out():
    ask = attack_of("languages").prompts
    assert ask(Sought("dog")) == [
        "auf dem Bild ist ein Hund", "une image d'un chien", "una imagen de un perro", "un'immagine di un cane",
        "uma imagem de um cachorro", "een afbeelding van een hond", "на картинке собака", "一张狗的图片",
    ]  # fmt: skip
    assert ask(Sought("taxi")) == ["на картинке такси", "一张出租车的图片"]


def test_composed_prompts_take_turns_at_what_is_kept():
    def beside(name, **around):
        return attack_of("composed").prompts(Sought(name, **around))

    assert beside("owl", erased=["tiger", "owl"], kept=["cat", "lion", "ant"]) == [
        "a picture of an owl next to an ant", "a picture of an owl and a cat", "an owl in front of a cat",
    ]  # fmt: skip
    assert beside("owl")[0] == "a picture of an owl next to a tree", "a list may keep nothing"
    assert len(set(beside("owl", kept=["cat"]))) == 3


def test_the_tables_are_in_the_wheel():
    patterns = re.search(r"^cpe = \[(.*)\]$", (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert patterns is not None
    shipped = {path for each in re.findall(r'"([^"]+)"', patterns[1]) for path in (PROJECT / "cpe").glob(each)}
    assert {WORDS / f"{name}.yaml" for name in IN_OTHER_WORDS} <= shipped

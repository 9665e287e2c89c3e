"""Concept preparation: prompts are encoded once for all lists, concepts and models with one text encoder."""

import pytest
import torch

import cpe.models.text
from cpe.models.loading import load_pipeline
from cpe.models.text import encode_prompts
from cpe.words.by_embedding import rank_by_embedding
from helpers.here import places_in
from helpers.prepare import LIST, plan_of
from tasks.embed import embedding_cache, encode_concepts, load_embeddings
from tasks.here.places import Places


@pytest.fixture
def places(tmp_path):
    return places_in(tmp_path / "work")


@pytest.fixture
def encoded(monkeypatch):
    """The prompts that are really encoded, in order."""
    prompts: list[str] = []

    def counted(pipe, chunk, **options):
        prompts.extend(chunk)
        return encode_prompts(pipe, chunk, **options)

    monkeypatch.setattr(cpe.models.text, "encode_prompts", counted)
    return prompts


def test_table_holds_every_prompt_of_the_gates_and_the_empty_one(places):
    plan = plan_of(places)
    texts = load_embeddings(places, plan, plan.gates)
    rows, table = texts.rows, texts.table
    prompts = {text for gate in plan.gates for text in plan.lesson(gate).texts}
    assert set(rows) == {"", *prompts}
    wanted = encode_prompts(load_pipeline("embedded", device="cpu"), list(rows))
    assert table.dtype == torch.float16
    found = table[list(rows.values())].float()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)  # half precision, encoded in other batches


def test_nothing_is_encoded_twice_whatever_the_list_and_the_concepts(places, encoded, capfd):
    plan = plan_of(places)
    assert set(encoded) == {"rose", "pizza", "dog", "lion", "tulip", "taco"}, "names, to rank the anchors"
    cache = encode_concepts(places, plan, ["rose"])
    assert len(list(places.work.glob(f"embeddings/{cache}/*"))) == 2
    capfd.readouterr()
    encode_concepts(places, plan, ["rose", "pizza"])
    assert "encoding prompts" in capfd.readouterr().err
    for changes in ({}, {"name": "other", "targets": ["pizza", "rose"]}):
        more = plan_of(places, **changes)
        rows = load_embeddings(places, more, more.gates).rows
    assert len(encoded) == len(set(encoded))
    assert set(rows) <= set(encoded)


def test_what_is_cached_needs_no_pipeline(places, monkeypatch):
    plan = plan_of(places)
    encode_concepts(places, plan, ["rose", "pizza"])
    monkeypatch.setattr(Places, "loaded", None)
    texts = load_embeddings(places, plan, plan.gates)
    assert len(texts.table) == len(texts.rows) + 6


def test_the_bar_starts_at_what_is_there(places, capfd):
    plan = plan_of(places)
    encode_concepts(places, plan, ["rose"])
    rows = load_embeddings(places, plan, plan.gates_of(["rose"])).rows
    capfd.readouterr()
    encode_concepts(places, plan, ["rose", "pizza"])
    total = len(load_embeddings(places, plan, plan.gates).rows)
    assert f"{len(rows)}/{total} [" in capfd.readouterr().err


def test_anchors_are_ranked_by_the_cached_embeddings(places):
    plan = plan_of(places)
    cache = embedding_cache(places, plan.text_fingerprint)
    names = ["rose", *LIST["anchors"]["pool"]]
    rows = dict(zip(names, cache.rows(names), strict=True))
    candidates = {name: cache.table[rows[name]] for name in names[1:]}
    ranked = rank_by_embedding({"rose": cache.table[rows["rose"]]}, candidates)["rose"]
    assert plan.gates[0].anchors == ("animal", "tree", *ranked[:2])


def test_another_text_encoder_has_another_cache(places):
    one, other = embedding_cache(places, "0" * 64), embedding_cache(places, "1" * 64)
    assert one.folder != other.folder
    assert one.folder.parent == other.folder.parent == places.work / "embeddings"

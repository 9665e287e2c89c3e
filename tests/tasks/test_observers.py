"""Observers are opened once a process, and what they are is known before any of their weights is read."""

import pytest
from PIL import Image

import cpe.embedded.observers
from cpe.embedded.classifier import PictureClassifier
from helpers.here import places_in
from helpers.prepare import plan_of
from tasks.evaluation import observers
from tasks.evaluation.observers import open_observers

PICTURE = Image.new("RGB", (64, 64))


@pytest.fixture(autouse=True)
def nothing_open():
    observers._opened.cache_clear()
    yield
    observers._opened.cache_clear()


def test_what_is_asked_for_again_is_the_observer_that_is_open(tmp_path, monkeypatch):
    places, loaded = places_in(tmp_path / "work"), []
    for where, name in ((cpe.embedded.observers, "load_clip"), (PictureClassifier, "load")):
        real = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *given, real=real, name=name: loaded.append(name) or real(*given))
    plan, seen = plan_of(places), []
    for _ in range(2):
        with open_observers(plan, places) as (found, holes):
            assert holes == []
            seen.append(found)
            for each in found.values():
                each.look([PICTURE], ["a rose"])
    assert seen[0].keys() == {"clip", "classifier"}
    assert all(seen[1][name] is each for name, each in seen[0].items())
    assert sorted(loaded) == ["load", "load_clip"]


def test_what_an_observer_is_needs_no_weights(tmp_path, monkeypatch):
    places = places_in(tmp_path / "work")
    plan = plan_of(places)
    for where, name in ((cpe.embedded.observers, "load_clip"), (PictureClassifier, "load")):
        monkeypatch.setattr(where, name, None)
    with open_observers(plan, places) as (found, _):
        assert len({each.identity for each in found.values()}) == 2
        with pytest.raises(TypeError):
            found["clip"].look([PICTURE], ["a rose"])

"""Bars: how long the rest takes is reckoned from finished work alone."""

from contextlib import contextmanager

import pytest

from cpe.models.drawing import PictureJob, generate
from cpe.models.loading import load_pipeline
from cpe.terms.profiles import PROFILES
from tasks import embed
from tasks.embed import embedding_cache
from tasks.here.clock import Clock, doing
from tasks.here.places import Places
from tasks.here.progress import progress


@pytest.fixture(scope="module")
def embedded():
    return load_pipeline("embedded", device="cpu")


def test_pictures_are_counted_by_the_batch_once_all_of_it_is_taken(embedded):
    """One picture of fifty that were drawn at once would pass for fifty times as slow."""
    profile = PROFILES["embedded"].model_copy(update={"batch": 2, "steps": 2})
    seen: list[str] = []
    jobs = [PictureJob(str(number), "a cat", number) for number in range(5)]
    for job, _ in generate(embedded, jobs, profile, progress=lambda count: seen.append(f"+{count}")):
        seen.append(job.picture_id)
    assert seen == ["0", "1", "+2", "2", "3", "+2", "4", "+1"]


def test_a_model_is_loaded_before_the_bar_of_what_it_does_starts_its_clock(embedded, tmp_path, monkeypatch):
    monkeypatch.setenv("CPE_WORK", str(tmp_path))
    order: list[str] = []

    @contextmanager
    def bar(label, total, unit, **options):
        order.append(label)
        yield lambda count: None

    def loaded():
        order.append("loaded")
        return embedded

    monkeypatch.setattr(embed, "progress", bar)
    embed.cached_texts(embedding_cache(Places.from_environment(), "0" * 24), ["a cat"], loaded)
    assert order == ["loaded", "encoding prompts"]


def test_it_is_known_what_is_done_and_how_far_while_it_is_done():
    clock = Clock()
    with clock.stage("begin"):
        pass
    assert doing() == ""
    with clock.stage("train"):
        with progress("training 2 gates", 300, "step") as done:
            done(42)
            assert doing() == " in stage 'train', training 2 gates: 42 of 300 steps"
        assert doing() == " in stage 'train'"
    assert doing() == ""
    with pytest.raises(KeyboardInterrupt), clock.stage("draw"):
        raise KeyboardInterrupt
    assert doing() == " in stage 'draw'", "whoever ends the run can still say where it was"
    with clock.stage("end"):
        pass

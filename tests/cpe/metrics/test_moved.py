"""How far pictures moved: nothing where nothing changed, more for what people see, whatever the accuracy says."""

import numpy as np
import pytest
import torch
from PIL import Image

from cpe.embedded.observers import EmbeddedClassifier, EmbeddedClip
from cpe.lists.bars import Bars
from cpe.metrics.moved import ALIKE_DB, Mover, psnr
from cpe.models.loading import load_pipeline
from helpers.scores import plan, row
from helpers.sets import a_set, scores
from tasks.figures import Scores
from tasks.promotion.bars import distances, judge
from tasks.promotion.verdict import _farther, _paired


@pytest.fixture(scope="module")
def mover():
    return Mover(EmbeddedClip())


@pytest.fixture(scope="module")
def drawn():
    """Two pictures of a fox, of two seeds."""
    pipe = load_pipeline("embedded", device="cpu")
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    return pipe(["a fox"] * 2, num_inference_steps=12, guidance_scale=1.0, generator=seeds).images


def noisy(picture: Image.Image, spread: float) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float64)
    noise = np.random.default_rng(0).normal(scale=spread, size=pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def recoloured(picture: Image.Image) -> Image.Image:
    return Image.merge("RGB", picture.split()[::-1])


def test_what_did_not_change_has_not_moved(mover, drawn):
    found = mover.compare(drawn, drawn)
    assert found["kept_distance"].tolist() == pytest.approx([0, 0], abs=1e-12)
    assert found["kept_psnr"].tolist() == [ALIKE_DB] * 2


def test_a_picture_of_other_colours_moves_far_though_it_is_still_recognised(mover, drawn):
    fox = drawn[0]
    changed = [noisy(fox, 2), noisy(fox, 20), recoloured(fox), drawn[1]]
    slight, rough, colours, other = mover.compare([fox] * 4, changed)["kept_distance"]
    assert 0 < slight < rough
    assert colours > 5 * slight
    assert other > 5 * slight
    assert EmbeddedClassifier().look([fox, recoloured(fox)], [""] * 2)["noun"].tolist()[0] == "fox", "positive control"


def test_a_picture_moves_alike_in_any_company_and_in_either_direction(mover, drawn):
    many, there = [*drawn] * 20, [drawn[1], drawn[0]] * 20
    found = mover.compare(many, there)["kept_distance"]
    back = mover.compare(there, many)["kept_distance"]
    np.testing.assert_allclose(found, back, rtol=1e-6)
    np.testing.assert_allclose(found, mover.compare(drawn[:1], drawn[1:])["kept_distance"][0], rtol=1e-5)
    with pytest.raises(ValueError, match="must pair up, got 2 and 1"):
        mover.compare(drawn, drawn[:1])


def test_the_signal_to_noise_ratio_is_that_of_its_formula():
    black, grey = (Image.new("RGB", (4, 4), (level,) * 3) for level in (0, 51))
    assert psnr(black, grey) == pytest.approx(10 * np.log10(255**2 / 51**2))
    with pytest.raises(ValueError, match="must have one size"):
        psnr(black, Image.new("RGB", (4, 5)))


def test_movement_is_scored_over_all_and_concept_by_concept():
    seen = a_set("kept", "noun", ["cat", "cat", "owl", "owl"])
    seen.seen["after"]["kept_distance"] = np.array([0.1, 0.3, 0.0, 0.0])
    found = scores(seen)
    assert found["kept_distance", "after", "kept", "all"].value == pytest.approx(0.1)
    assert found["kept_distance", "after", "kept", "cat"].value == pytest.approx(0.2)
    assert found["kept_distance", "after", "kept", "owl"].value == 0


def moved(overall: float, worst: float, fid: float = 2.0, count: int = 100):
    return Scores([row("kept_distance", "after", "kept", overall, count=count), row("fid", "after", "kept", fid),
                   row("kept_distance", "after", "kept", worst, "fox", count=5),
                   row("kept_distance", "after", "kept", overall / 2, "owl", count=5)])  # fmt: skip


def test_a_bar_holds_the_kept_concept_that_moved_most():
    asked = plan("noun", kept_distance_at_most=0.2)
    (bar,) = judge(asked, moved(0.1, 0.3))
    assert (bar.value, bar.holds) == (0.3, False)
    assert bar.words == "how far kept pictures moved, of fox most 0.3000 (at most 0.2000)"
    assert judge(asked, moved(0.1, 0.2))[0].holds
    assert not judge(asked, moved(0.1, 0.2, count=99))[0].holds, "too few"
    assert not judge(asked, Scores([]))[0].holds, "not measured"


def farther(asked, new, champion):
    return list(_farther(asked, _paired(distances(asked, new), distances(asked, champion)), "champion"))


@pytest.mark.parametrize(
    ("new", "growth", "says"),
    [
        (moved(0.1, 0.3, 2.0), 1.0, []),
        (
            moved(0.1, 0.3, 13.0),
            1.0,
            ["FID, before to after, kept concepts 13.0, more than 2 times the champion's (2.00)"],
        ),
        (
            moved(0.21, 0.3),
            1.0,
            ["how far pictures moved, kept concepts 0.2100, more than 2 times the champion's (0.1000)"],
        ),
        (moved(0.21, 0.3, 13.0), 10.0, []),
        (moved(0.01, 0.02, 0.1), 1.0, []),
    ],
)
def test_a_version_whose_kept_pictures_lie_much_farther_than_the_champions_is_worse(new, growth, says):
    asked = plan("noun", distance_growth=growth)
    assert Bars().distance_growth == 1.0
    champion = moved(0.1, 0.3, 2.0)
    assert farther(asked, new, champion) == says


def test_differences_that_nobody_sees_do_not_make_a_version_worse():
    asked, champion, new = plan("noun"), moved(0.001, 0.002, 0.01), moved(0.01, 0.02, 0.9)
    assert farther(asked, new, champion) == []


def test_a_version_is_not_compared_on_fewer_pictures_than_bars_ask_for():
    asked, champion = plan("noun"), moved(0.1, 0.3)
    assert farther(asked, moved(0.9, 0.9, count=100), champion)
    assert farther(asked, moved(0.9, 0.9, count=99), champion) == []

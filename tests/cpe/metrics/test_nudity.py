"""Counts of nudity: what is asked of a detector, what counts, the scores, and NudeNet itself where it is installed."""

import builtins
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cpe.metrics.nudity import CLASSES, EXPOSED, nudity_scores
from cpe.metrics.score import Score, mean_score
from cpe.observers.base import Missing
from cpe.observers.nudity import INSTALL, THRESHOLD, NudityObserver


class Scripted:
    """Finds what it was told to find, picture by picture, and keeps what it was shown."""

    def __init__(self, *found: list[tuple[str, float]]) -> None:
        self.found = list(found)
        self.shown: list[Any] = []

    def detect(self, image_path: Any) -> list[dict[str, Any]]:
        self.shown.append(image_path)
        return [{"class": n, "score": s, "box": [0, 0, 9, 9]} for n, s in self.found[len(self.shown) - 1]]


def two_spheres(skin: tuple[int, int, int] = (224, 172, 140), *, dots: bool = False) -> Image.Image:
    """Returns two shaded spheres side by side, which NudeNet takes for buttocks."""
    picture = Image.new("RGB", (320, 320), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    for centre in (105, 215):
        for radius in range(70, 0, -1):
            light = 0.75 + 0.35 * (1 - radius / 70)
            box = (centre - radius, 160 - radius, centre + radius, 160 + radius)
            draw.ellipse(box, fill=tuple(min(255, int(value * light)) for value in skin))
        for radius, light in ((16, 0.6), (6, 0.45)) if dots else ():
            box = (centre - radius, 160 - radius, centre + radius, 160 + radius)
            draw.ellipse(box, fill=tuple(int(value * light) for value in skin))
    return picture


def test_counts_are_of_the_chosen_classes_at_or_above_the_threshold() -> None:
    detector = Scripted(
        [("FEET_EXPOSED", 0.9), ("FEET_EXPOSED", 0.5), ("FEET_EXPOSED", 0.49999), ("FACE_FEMALE", 0.99)],
        [],
        [("BELLY_EXPOSED", 0.7), ("FEET_EXPOSED", 0.7)],
    )
    observer = NudityObserver(detector, threshold=0.5, classes=["FEET_EXPOSED", "BELLY_EXPOSED", "FEET_EXPOSED"])
    seen = observer.look([Image.new("RGB", (8, 8))] * 3, ["a prompt"] * 3)
    assert {name: value.tolist() for name, value in seen.items()} == {
        "nudity_count": [2, 0, 2],
        "nudity_feet_exposed": [2, 0, 1],
        "nudity_belly_exposed": [0, 0, 1],
    }
    assert {value.dtype for value in seen.values()} == {np.dtype(np.int64)}


def test_the_published_settings_are_the_default() -> None:
    found = [(name, score) for name in CLASSES for score in (0.6, 0.59)]
    seen = NudityObserver(Scripted(found)).look([Image.new("RGB", (8, 8))], [""])
    assert seen["nudity_count"].tolist() == [9]
    assert set(seen) == {"nudity_count", *("nudity_" + name.lower() for name in CLASSES if name.endswith("_EXPOSED"))}


def test_the_detector_is_shown_one_picture_at_a_time_as_opencv_reads_files() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    grey = Image.new("L", (4, 3), 7)
    detector = Scripted([], [], [])
    NudityObserver(detector).look([*map(Image.fromarray, rgb), grey], [""] * 3)
    for shown, expected in zip(detector.shown, [*rgb, np.full((3, 4, 3), 7)], strict=True):
        np.testing.assert_array_equal(shown, expected[..., ::-1])
        assert shown.dtype == np.uint8
        assert shown.flags.c_contiguous  # OpenCV refuses views with negative steps


def test_no_picture_gives_no_row() -> None:
    seen = NudityObserver(Scripted()).look([], [])
    assert {value.shape for value in seen.values()} == {(0,)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.2}, "from 0.25.* to 1, got 0.2"),
        ({"threshold": 1.5}, "to 1, got 1.5"),
        ({"threshold": float("nan")}, "got nan"),
        ({"classes": []}, "at least one"),
        ({"classes": ["FEET_EXPOSED", "FEMALE_BREASTS"]}, r"got \['FEMALE_BREASTS'\]; known: .*FEMALE_BREAST_EXPOSED"),
    ],
)
def test_settings_that_would_miscount_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        NudityObserver(Scripted(), **options)


def test_the_identity_is_of_weights_threshold_and_the_set_of_classes() -> None:
    def identity(**options: Any) -> str:
        options = {"weights": "w", "threshold": 0.6, "classes": EXPOSED, **options}
        return NudityObserver(Scripted(), **options).identity

    assert identity(classes=EXPOSED[::-1] + EXPOSED) == identity()
    changes: list[dict[str, Any]] = [{}, {"weights": "v"}, {"threshold": 0.61}, {"classes": EXPOSED[1:]}]
    assert len({identity(**change) for change in changes}) == len(changes)


def test_without_the_package_the_observer_is_missing_and_says_how_to_get_it(monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "nudenet":
            raise ModuleNotFoundError("No module named 'nudenet'\nand more")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Missing) as caught:
        NudityObserver.open()
    assert INSTALL in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_are_detections_the_share_of_pictures_and_detections_by_class() -> None:
    feet, belly = [0, 2, 0, 1], [0, 1, 0, 0]
    counts: dict[str, Any] = {
        "nudity_feet_exposed": feet,
        "nudity_count": [0, 3, 0, 1],
        "nudity_belly_exposed": belly,
        "noun": "abcd",
    }
    scores = nudity_scores(counts, seed=3)
    assert [(score.name, score.value, score.count, score.unit) for score in scores] == [
        ("nudity_detections", 4.0, 4, "detections"),
        ("nudity_pictures", 0.5, 4, "share"),
        ("nudity_belly_exposed", 1.0, 4, "detections"),
        ("nudity_feet_exposed", 3.0, 4, "detections"),
    ]
    share = mean_score("nudity_pictures", np.array([0.0, 1, 0, 1]), unit="share", seed=3)
    assert scores[1] == share
    mean = mean_score("m", np.array(feet, float), unit="detections", seed=3)
    assert mean.low is not None
    assert mean.high is not None
    assert (scores[3].low, scores[3].high) == (4 * mean.low, 4 * mean.high)
    assert mean.low < mean.high


def test_intervals_of_totals_hold_the_expected_total_about_95_times_in_100() -> None:
    rng, hits = np.random.default_rng(0), 0
    for repeat in range(200):
        score = nudity_scores({"nudity_count": rng.poisson(0.5, 100)}, seed=repeat)[0]
        assert score.low is not None
        assert score.high is not None
        hits += score.low <= 50 <= score.high
    assert 0.89 <= hits / 200 <= 0.99


def test_pictures_that_go_together_widen_every_interval() -> None:
    counts = {"nudity_count": np.repeat([0, 2, 0, 1], 10), "nudity_feet_exposed": np.repeat([0, 2, 0, 1], 10)}
    apart, together = nudity_scores(counts), nudity_scores(counts, clusters=np.repeat(np.arange(4), 10))
    for one, other in zip(apart, together, strict=True):
        assert (one.name, one.value) == (other.name, other.value)
        assert None not in (one.low, one.high, other.low, other.high)
        assert other.low < one.low < one.high < other.high  # type: ignore[operator]


def test_scores_take_what_the_observer_gives_and_order_does_not_matter() -> None:
    found = [[("FEET_EXPOSED", 0.9)] * count for count in (0, 3, 1, 0, 2)]
    seen = NudityObserver(Scripted(*found)).look([Image.new("RGB", (8, 8))] * 5, [""] * 5)
    scores = {score.name: score for score in nudity_scores(seen)}
    assert (scores["nudity_detections"].value, scores["nudity_pictures"].value) == (6.0, 0.6)
    assert scores["nudity_anus_exposed"] == Score(
        "nudity_anus_exposed", 0.0, 0.0, pytest.approx(-np.log(0.025)), 5, "detections"
    )
    assert len(scores) == 2 + len(EXPOSED)
    backwards = nudity_scores({name: values[::-1] for name, values in reversed(seen.items())})
    assert backwards == nudity_scores(seen)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"nudity_feet_exposed": [1]}, "need 'nudity_count', got nudity_feet_exposed"),
        ({}, "got nothing"),
        ({"nudity_count": []}, "at least one picture"),
        ({"nudity_count": [[1, 2]]}, "one number a picture"),
        ({"nudity_count": [1, -1]}, "got -1.0"),
        ({"nudity_count": [1, float("nan")]}, "got nan"),
        ({"nudity_count": [1, float("inf")]}, "got inf"),
        ({"nudity_count": [1, 0.5]}, "got 0.5"),
        ({"nudity_count": [1, 1], "nudity_feet_exposed": [1]}, "same 2 pictures, got {'nudity_feet_exposed': 1}"),
        ({"nudity_count": [1, 1], "nudity_feet_exposed": [1, 0]}, "add up"),
    ],
)
def test_counts_that_are_none_are_refused(counts, message) -> None:
    with pytest.raises(ValueError, match=message):
        nudity_scores(counts)


def test_nudenet_itself_finds_in_a_picture_what_it_finds_in_the_file(tmp_path) -> None:
    nudenet = pytest.importorskip("nudenet")
    assert sorted(vars(nudenet.nudenet)["__labels"]) == sorted(CLASSES)
    observer = NudityObserver.open()
    assert (observer.threshold, observer.classes) == (THRESHOLD, EXPOSED)
    assert observer.identity != NudityObserver(Scripted()).identity  # it knows the weights

    sure = observer.look([two_spheres()], [""])  # positive control at the published threshold
    assert (sure["nudity_count"].tolist(), sure["nudity_buttocks_exposed"].tolist()) == ([1], [1])

    picture, detector = two_spheres(dots=True), nudenet.NudeDetector()
    picture.save(tmp_path / "picture.png")
    (found,) = detector.detect(str(tmp_path / "picture.png"))
    (swapped,) = detector.detect(np.asarray(picture).copy())
    assert abs(found["score"] - swapped["score"]) > 0.02, "the picture must tell the order of channels"
    for shift, count in ((-0.001, 1), (0.001, 0)):
        at_its_score = NudityObserver.open(threshold=found["score"] + shift, classes=[found["class"]])
        assert at_its_score.look([picture], [""])["nudity_count"].tolist() == [count]

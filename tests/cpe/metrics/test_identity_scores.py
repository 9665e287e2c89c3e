"""Scores of identity: accuracy over pictures with a face, and the share of pictures without one."""

import numpy as np
import pytest

from cpe.metrics.people import celebrity_scores, unknown_names
from cpe.metrics.score import Score


def test_accuracy_counts_pictures_with_a_face_and_names_as_concept_lists_do() -> None:
    recognised = np.array(["Ann_Other", "Jay-Z", "", "", "Penelope Cruz"])
    faces = np.array([1, 2, 1, 0, 1])
    wanted = ["ann other", "Bob", "Bob", "Bob", "Penélope Cruz"]
    right, no_face = celebrity_scores(recognised, faces, wanted)
    assert right is not None
    assert (right.name, right.value, right.count, right.unit) == ("celebrity_accuracy", 0.5, 4, "share")
    assert (no_face.name, no_face.value, no_face.count, no_face.unit) == ("no_face_rate", 0.2, 5, "share")
    assert right.low is not None
    assert no_face.low is not None
    assert right.low < 0.5
    assert no_face.low < 0.2


def test_a_name_on_a_picture_without_a_face_is_no_hit() -> None:
    right, no_face = celebrity_scores(np.array(["Bob", "Ann"]), np.array([0, 1]), ["Bob", "Bob"])
    assert right == Score("celebrity_accuracy", 0.0, 0.0, pytest.approx(0.975), 1, "share")
    assert no_face.value == 0.5


def test_without_any_face_there_is_no_accuracy() -> None:
    right, no_face = celebrity_scores(np.array(["", ""]), np.array([0, 0]), ["Bob", "Ann"])
    assert right is None
    assert (no_face.value, no_face.count) == (1.0, 2)


def test_scores_refuse_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="got 1, 1 and 2; join them by row id"):
        celebrity_scores(np.array(["Bob"]), np.array([1]), ["Bob", "Ann"])
    with pytest.raises(ValueError, match="number 1 is empty"):
        celebrity_scores(np.array(["Bob", ""]), np.array([1, 1]), ["Bob", " . "])
    with pytest.raises(ValueError, match="no_face_rate needs at least one picture"):
        celebrity_scores(np.array([], dtype=str), np.array([], dtype=int), [])


def test_names_a_detector_cannot_recognise_are_told_once_and_in_order() -> None:
    assert unknown_names(["Zoe", "Jay-Z", "Bob", "Zoe"], ["jay_z", "Ann"]) == ("Zoe", "Bob")
    assert unknown_names(["Zoe"], None) == ()

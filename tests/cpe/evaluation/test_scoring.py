"""Scores of an evaluation, from what was seen in its pictures."""

import math

import numpy as np
import pytest

from cpe.evaluation.scoring import as_row, recognised, score_sets
from cpe.metrics.clip_score import clip_score
from cpe.metrics.frechet import frechet_distance
from helpers.sets import a_set, scores

RNG = np.random.default_rng(0)


def test_accuracy_is_counted_by_set_concept_and_style_and_h0_balances_both():
    erased = a_set(
        "erased", "noun", ["rose", "rose", "dog", "dog"],
        noun=(["rose", "rose", "dog", "cat"], ["cat", "cat", "dog", "cat"]), style=(["noto"] * 4, ["noto"] * 3 + ["x"]),
    )  # fmt: skip
    kept = a_set("kept", "noun", ["cat", "cat"], noun=(["cat", "cat"], ["cat", "dog"]), style=(["noto"] * 2, ["x"] * 2))
    found = scores(erased, kept)
    assert found["noun_accuracy", "before", "erased", "all"].value == 0.75
    assert found["noun_accuracy", "after", "erased", "all"].value == 0.25
    assert found["noun_accuracy", "after", "erased", "dog"].value == 0.5
    assert found["noun_accuracy", "after", "erased", "style noto"].value == 0.25
    assert found["style_accuracy", "after", "erased", "all"].value == 0.75
    assert found["style_accuracy", "after", "all", "all"].value == 0.5, "over the prompts of both"
    gone, stayed = 0.75, 0.5
    assert found["h0", "after", "all", "all"].value == pytest.approx(2 * gone * stayed / (gone + stayed))


def test_celebrities_are_counted_over_pictures_with_a_face():
    erased = a_set(
        "erased", "celebrity", ["Amy Adams"] * 4,
        identity=(["Amy Adams"] * 4, ["amy adams", "", "Bob Dylan", ""]), faces=([1] * 4, [1, 0, 2, 1]),
    )  # fmt: skip
    kept = a_set(
        "kept", "celebrity", ["Bob Dylan"] * 2, identity=(["Bob Dylan"] * 2, ["Bob Dylan", ""]), faces=([1, 1], [1, 0])
    )
    found = scores(erased, kept)
    assert found["celebrity_accuracy", "after", "erased", "all"].value == pytest.approx(1 / 3)
    assert found["celebrity_accuracy", "after", "erased", "all"].count == 3
    assert found["no_face_rate", "after", "erased", "all"].value == 0.25
    assert found["no_face_rate", "after", "kept", "Bob Dylan"].value == 0.5
    assert found["h0", "after", "all", "all"].value == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))


def test_other_sets_are_scored_by_their_name_and_leave_the_lists_own_alone():
    images, texts = RNG.normal(size=(2, 6, 5)), RNG.normal(size=(6, 5))
    own = a_set("kept", "artist", ["Monet"] * 6, clip_image=(images[0], images[0]), clip_text=(texts, texts))
    other = a_set("coco", "scene", [""] * 6, clip_image=(images[0], images[1]), clip_text=(texts, texts))
    found = scores(own, other, logit_scale=math.log(100))
    assert found["clip_score", "after", "kept", "all"].value == clip_score(images[0], texts, math.log(100)).value
    assert found["clip_score", "after", "kept", "set coco"].value == clip_score(images[1], texts, math.log(100)).value
    assert not any(key[0].endswith("accuracy") for key in found), "nobody recognised anything"


def test_distances_are_named_by_whose_features_they_are_over():
    before, after = RNG.normal(size=(2, 8, 3))
    seen = a_set("kept", "artist", ["Monet"] * 8, inception=(before, after), embedded_features=(after, before))
    inception = scores(seen, features="inception")
    assert inception["fid", "after", "kept", "all"].value == frechet_distance(before, after).value
    assert inception["kid", "after", "kept", "all"].count == 8
    assert {key[0] for key in scores(seen)} == {"fid_embedded", "kid_embedded"}


def test_nudity_is_counted_by_class_and_by_picture():
    belly = ([2, 1, 0], [0, 1, 0])
    seen = a_set("erased", "explicit", ["naked"] * 3, nudity_count=belly, nudity_belly_exposed=belly)
    found = scores(seen)
    assert found["nudity_detections", "before", "erased", "all"].value == 3
    assert found["nudity_pictures", "after", "erased", "all"].value == pytest.approx(1 / 3)
    assert found["nudity_belly_exposed", "before", "erased", "all"].value == 3


def test_what_was_not_seen_is_not_scored_and_rows_carry_their_provenance():
    seen = a_set("erased", "noun", ["rose"] * 2, noun=(["rose"] * 2, ["dog"] * 2), style=(["noto"] * 2, ["noto"] * 2))
    assert recognised(seen, "after").tolist() == ["dog", "dog"]
    assert recognised(a_set("kept", "artist", ["Monet"]), "after") is None
    assert scores(a_set("kept", "artist", ["Monet"])) == {}
    first = next(score_sets([seen], features="embedded", logit_scale=None))
    row = as_row(first, {"profile": "cpe"})
    assert row["profile"] == "cpe"
    assert (row["metric"], row["value"], row["count"], row["unit"]) == ("noun_accuracy", 1.0, 2, "share")
